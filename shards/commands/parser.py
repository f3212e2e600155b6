"""A parser that names what a typing error may have meant, shows the version, and completes in shells."""

from __future__ import annotations

import argparse
import difflib
import os
import re
import sys
from collections.abc import Container, Iterable, Sequence
from importlib.metadata import PackageNotFoundError, version
from typing import Any, NoReturn

DISTRIBUTION = "speakerlm-pretrain"
LINE_TO_COMPLETE = "_ARGCOMPLETE"  # in the environment while a shell asks for completions; holds the first word's place
_REQUIRED = "the following arguments are required"


class Parser(argparse.ArgumentParser):
    """A parser with ``--version`` and completion, whose errors name the nearest option or choice.

    An unknown option is the error that is shown, even if arguments are missing too: a typing error is often the cause.
    """

    _completing = False

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.add_argument(
            "--version", action=_Version, nargs=0, default=argparse.SUPPRESS, help="show the version and exit"
        )
        self._given: Sequence[str] = ()

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Parse as argparse does; an unknown option is an error here, where it can be compared with the known ones."""
        if LINE_TO_COMPLETE in os.environ and not Parser._completing:
            Parser._completing = True  # argcomplete calls this parser again, and those of sub-commands
            _argcomplete().autocomplete(self)  # prints completions and ends the process
        self._given = list(sys.argv[1:] if args is None else args)
        for action in self._actions:
            if action.nargs == argparse.ZERO_OR_MORE:
                action.required = False  # argparse before 3.13 lists them among the arguments that are missing
        found, rest = super().parse_known_args(args, namespace)
        if not Parser._completing:
            self._refuse_unknown(rest)
        return found, rest

    def error(self, message: str) -> NoReturn:
        """Exit with the usage and a message; of missing arguments only if all options are known."""
        if message.startswith(_REQUIRED):
            given, self._given = self._given, ()
            self._refuse_unknown(given)
        super().error(message)

    def _refuse_unknown(self, words: Sequence[str]) -> None:
        known = [name for action in self._actions for name in action.option_strings]
        commands = [name for a in self._actions if isinstance(a, argparse._SubParsersAction) for name in a.choices]
        for word in words:
            if word == "--" or word in commands:  # what follows is not of this parser's options
                return
            name = word.partition("=")[0]
            if not _is_option(name) or any(option.startswith(name) for option in known):
                continue
            if not name.startswith("--") and name[:2] in known:  # -n5
                continue
            shown = [a for a in self._actions if a.help is not argparse.SUPPRESS]
            near = nearest(name, [option for a in shown for option in a.option_strings])
            super().error(f"unknown option {name}{near or '; see --help'}")

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        if action.choices is not None and value not in action.choices:
            known = [str(choice) for choice in action.choices]
            raise argparse.ArgumentError(action, f"{value!r} is none of {', '.join(known)}{nearest(str(value), known)}")


class _Version(argparse.Action):
    """Prints the version of the distribution."""

    def __call__(self, parser: argparse.ArgumentParser, *_: Any) -> None:
        try:
            number = version(DISTRIBUTION)
        except PackageNotFoundError:
            number = "of a checkout that is not installed"
        print(DISTRIBUTION, number)
        parser.exit()


def nearest(word: str, known: Iterable[str]) -> str:
    """Return ``; did you mean …?`` with the most similar known word, or an empty string."""
    found = difflib.get_close_matches(word, list(known), n=1, cutoff=0.65)
    return f"; did you mean {found[0]}?" if found else ""


def _is_option(word: str) -> bool:
    return len(word) > 1 and word[0] == "-" and " " not in word and not re.fullmatch(r"-\d+|-\d*\.\d+", word)


def typed(argv: Sequence[str]) -> list[str]:
    """Return a command's arguments; while a shell asks for completions, those before the word to complete.

    A command that chooses the parser by its first argument calls this, then :func:`enter_command`.
    """
    if LINE_TO_COMPLETE not in os.environ:
        return list(argv)
    words = _argcomplete().split_line(os.environ["COMP_LINE"], int(os.environ["COMP_POINT"]))[3]
    return list(words[int(os.environ[LINE_TO_COMPLETE]) :])


def enter_command() -> None:
    """Let completion take the first argument, a sub-command, for the program: its parser completes what follows."""
    if LINE_TO_COMPLETE in os.environ:
        os.environ[LINE_TO_COMPLETE] = str(int(os.environ[LINE_TO_COMPLETE]) + 1)


def choose_command(
    parser: argparse.ArgumentParser, argv: Sequence[str], commands: Container[str]
) -> tuple[str, list[str]]:
    """Return the command and its arguments; ``parser`` knows only the argument ``command``."""
    words = typed(argv)
    if LINE_TO_COMPLETE in os.environ and words and words[0] in commands:
        enter_command()
        return words[0], words[1:]
    return parser.parse_args(words[:1]).command, words[1:]


def _argcomplete() -> Any:
    try:
        import argcomplete
    except ImportError as e:
        raise SystemExit("completion needs argcomplete: pip install 'speakerlm-pretrain[completion]'") from e
    return argcomplete
