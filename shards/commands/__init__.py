"""Command-line entry points: exit codes, one-line errors, log messages on stderr."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec

from shards.errors import ConfigError, SpeakerLMError

INTERRUPTED = 130  # 128 and the number of SIGINT, as shells have it
PACKAGES = ("shards", "pipeline", "launch", "__main__")  # the last one under `python -m`
# Libraries whose warnings at import concern no user: transformers imports torchao wherever it is installed, which then
# reports kernels of other cards, and its own use of a torch function; peft imports bitsandbytes, which reports that a
# CPU kernel of a further package is missing.
IMPORT_WARNINGS = ("torchao", "torch.utils._pytree", "bitsandbytes.backends.cpu.ops")

logger = logging.getLogger(__name__)


def outcome(program: str, work: Callable[[], int], after_interrupt: str = "run it again") -> int:
    """Run a command and return its exit code: without a traceback for errors that the user can correct.

    Log messages are written to stderr while it runs (:func:`command_logging`).

    Args:
        work: the command. Its ``OSError`` is a full disk or a folder without permission.
        after_interrupt: what to do after Ctrl-C.
    """
    with command_logging(program):
        try:
            return work()
        except (SpeakerLMError, OSError) as e:
            logger.error("%s", e)
            return 1
        except KeyboardInterrupt:
            print(file=sys.stderr)  # after the terminal's ^C
            logger.error("interrupted; %s", after_interrupt)
            return INTERRUPTED


def require(package: str, extra: str, what: str) -> None:
    """Check that a package of an extra is installed, without importing it.

    Raises:
        ConfigError: it is not; ``what`` needs it.
    """
    try:
        found = find_spec(package) is not None
    except ModuleNotFoundError:  # of a parent
        found = False
    if not found:
        raise ConfigError(f"{what} needs {package}: pip install 'speakerlm-pretrain[{extra}]'")


@contextmanager
def command_logging(program: str) -> Iterator[None]:
    """Write the project's log messages of level INFO and up to stderr, as ``program: message``.

    Warnings are written as ``program: warning: message``. The loggers' former state is restored at the end.
    """
    handler = StandardStream("stderr")
    handler.setFormatter(LineFormatter(f"{program}: ", "warning: "))
    with project_logging(handler):
        yield


@contextmanager
def project_logging(handler: logging.Handler, level: int = logging.INFO) -> Iterator[None]:
    """Send the project's log messages to one handler, and to no other.

    Libraries that configure the root logger would write each message a second time.
    """
    loggers = [logging.getLogger(name) for name in (*PACKAGES, *IMPORT_WARNINGS)]
    before = [(log.handlers, log.level, log.propagate) for log in loggers]
    for log in loggers[: len(PACKAGES)]:
        log.handlers, log.propagate = [handler], False
        log.setLevel(level)
    for log in loggers[len(PACKAGES) :]:
        log.setLevel(logging.ERROR)
    try:
        yield
    finally:
        for log, (handlers, old, propagate) in zip(loggers, before, strict=True):
            log.handlers, log.propagate = handlers, propagate
            log.setLevel(old)


class StandardStream(logging.Handler):
    """Writes to what ``sys.stdout`` or ``sys.stderr`` is at that moment, so that redirections hold."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self._stream = name

    def emit(self, record: logging.LogRecord) -> None:
        print(self.format(record), file=getattr(sys, self._stream), flush=True)


class LineFormatter(logging.Formatter):
    """``PREFIX MESSAGE``; before the message of a warning comes its level."""

    def __init__(self, prefix: str, warning: str) -> None:
        super().__init__()
        self._prefix, self._warning = prefix, warning

    def format(self, record: logging.LogRecord) -> str:
        level = self._warning if record.levelno == logging.WARNING else ""
        return f"{self._prefix}{level}{super().format(record)}"
