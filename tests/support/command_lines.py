"""Parse command lines of users without running them. Imports nothing of the project, so that old commits run it too.

    PYTHONPATH=. python tests/support/command_lines.py < COMMAND_LINES > OPTIONS.json

prints the options of every command that the lines name, with their choices.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import runpy
import shlex
import sys
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

Options = dict[str, list[str] | None]
SHARDS = ("speakerlm-shards", "-m shards.cli")


class Parsed(BaseException):
    """Raised in place of what a command does after it has parsed its arguments."""

    def __init__(self, parser: argparse.ArgumentParser, values: argparse.Namespace) -> None:
        super().__init__()
        self.parser, self.values = parser, values


def split(line: str) -> tuple[str, list[str]]:
    """The command of a line (``speakerlm-decode``, ``launch/train.py``, ``-m MODULE``) and its arguments."""
    words = shlex.split(line, comments=True)
    for i, word in enumerate(words):
        if word.startswith("speakerlm-") or (word.startswith("launch/") and word.endswith(".py")):
            return word, words[i + 1 :]
        if word == "-m":
            return f"-m {words[i + 1]}", words[i + 2 :]
    raise ValueError(f"no command of the project: {line}")


def name_of(line: str) -> str:
    """The command of a line, with its subcommand where each has a parser of its own."""
    command, arguments = split(line)
    return f"{command} {arguments[0]}" if command in (*SHARDS, "speakerlm-score") else command


def parse(line: str, root: Path, renamed: dict[str, str] | None = None) -> Parsed:
    """Parse a command line by its command's own parser.

    Raises:
        SystemExit: it does not parse.
        ValueError: the command did something else than parse.
    """
    command, arguments = split(line)
    command = (renamed or {}).get(command, command)
    stages = 2 if command in SHARDS else 1  # a parser that chooses, then the command's
    with _stopping_after(stages), _arguments(command, arguments):
        try:
            _run(command, arguments, root)
        except Parsed as parsed:
            return parsed
    raise ValueError(f"{line}: parsed nothing")


def options_of(parser: argparse.ArgumentParser) -> Options:
    """Option strings and their choices; those of subcommands, too."""
    found: Options = {}
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for name, sub in action.choices.items():
                found[name] = None
                found |= {f"{name} {option}": choices for option, choices in options_of(sub).items()}
        for option in action.option_strings:
            found[option] = sorted(map(str, action.choices)) if action.choices else None
    return found


def _run(command: str, arguments: list[str], root: Path) -> None:
    sys.path.insert(0, str(root / "launch"))
    if command.startswith("speakerlm-"):
        scripts = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["project"]["scripts"]
        module, _, function = scripts[command].partition(":")
        getattr(importlib.import_module(module), function)(arguments)
    elif command.startswith("-m "):
        module = importlib.import_module(command[3:])
        (module if hasattr(module, "main") else importlib.import_module(f"{command[3:]}.__main__")).main()
    else:
        runpy.run_path(str(root / command), run_name="__main__")


@contextmanager
def _arguments(command: str, arguments: list[str]) -> Iterator[None]:
    before, path = sys.argv, list(sys.path)
    sys.argv = [command, *arguments]
    try:
        yield
    finally:
        sys.argv, sys.path[:] = before, path


@contextmanager
def _stopping_after(stages: int) -> Iterator[None]:
    """Replace what scripts call to parse; the last of ``stages`` calls raises :class:`Parsed`."""
    names = ("parse_args", "parse_known_args", "parse_intermixed_args")
    real: dict[str, Any] = {name: getattr(argparse.ArgumentParser, name) for name in names}
    calls, depth = [0], [0]

    def stopping(name: str) -> Any:
        def wrapped(self: argparse.ArgumentParser, *args: Any, **kwargs: Any) -> Any:
            depth[0] += 1
            try:
                result = real[name](self, *args, **kwargs)
            finally:
                depth[0] -= 1
            if depth[0] == 0:
                calls[0] += 1
                if calls[0] == stages:
                    raise Parsed(self, result[0] if isinstance(result, tuple) else result)
            return result

        return wrapped

    for name in names:
        setattr(argparse.ArgumentParser, name, stopping(name))
    try:
        yield
    finally:
        for name in names:
            setattr(argparse.ArgumentParser, name, real[name])


def _dump() -> None:
    root, found = Path.cwd(), {}
    for line in filter(None, map(str.strip, sys.stdin)):
        if not line.startswith("#"):
            found[name_of(line)] = options_of(parse(line, root).parser)
    print(json.dumps(found, indent=1, sort_keys=True))


if __name__ == "__main__":
    os.environ["COLUMNS"] = "120"
    _dump()
