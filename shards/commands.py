"""Command-line entry points: exit codes, one-line errors, log messages on stderr."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from shards.errors import SpeakerLMError

INTERRUPTED = 130  # 128 and the number of SIGINT, as shells have it
PACKAGES = ("shards", "pipeline")

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


@contextmanager
def command_logging(program: str) -> Iterator[None]:
    """Write the project's log messages of level INFO and up to stderr, as ``program: message``.

    Warnings are written as ``program: warning: message``. The loggers' former state is restored at the end.
    """
    handler = _StderrHandler()
    handler.setFormatter(_Formatter(program))
    loggers = [logging.getLogger(name) for name in PACKAGES]
    levels = [log.level for log in loggers]
    for log in loggers:
        log.addHandler(handler)
        log.setLevel(logging.INFO)
    try:
        yield
    finally:
        for log, level in zip(loggers, levels, strict=True):
            log.removeHandler(handler)
            log.setLevel(level)


class _StderrHandler(logging.Handler):
    """Writes to what ``sys.stderr`` is at that moment."""

    def emit(self, record: logging.LogRecord) -> None:
        print(self.format(record), file=sys.stderr, flush=True)


class _Formatter(logging.Formatter):
    def __init__(self, program: str) -> None:
        super().__init__()
        self._program = program

    def format(self, record: logging.LogRecord) -> str:
        level = "warning: " if record.levelno == logging.WARNING else ""
        return f"{self._program}: {level}{super().format(record)}"
