"""Ranks that stand still until something has been asked of them: no machine is then too fast for a test."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Iterator
from pathlib import Path

from benchmarks.support import servers

ASKED_S = 600
_STOPS = sum(1 << (s - 1) for s in (signal.SIGTERM, signal.SIGUSR1))


class Frozen:
    """The processes of `launch/train.py` that write to a folder, stopped."""

    def __init__(self, output: Path) -> None:
        self._pids = list(_processes_of(output))
        assert self._pids, f"no process trains {output}"
        self._signal(signal.SIGSTOP)
        servers.wait(lambda: not any(_status(p).get("State", "T")[0] in "RSD" for p in self._pids), "a stop", ASKED_S)

    def thaw_when_asked(self) -> None:
        """Let them continue as soon as one of them has got a signal, or was woken or ended otherwise."""
        try:
            servers.wait(lambda: any(map(_asked, self._pids)), "a signal to the ranks", ASKED_S)
        finally:
            self._signal(signal.SIGCONT)

    def _signal(self, number: int) -> None:
        for pid in self._pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)


def _processes_of(output: Path) -> Iterator[int]:
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            command = (entry / "cmdline").read_bytes().split(b"\0")
            if command[1:2] == [b"launch/train.py"] and f"output={output}".encode() in command:
                yield int(entry.name)


def _asked(pid: int) -> bool:
    """A process that stands still keeps the signals that come meanwhile, and the kernel tells which."""
    status = _status(pid)
    if not status:
        return True
    pending = int(status["ShdPnd"], 16) | int(status["SigPnd"], 16)
    return bool(pending & _STOPS) or not status["State"].startswith("T")


def _status(pid: int) -> dict[str, str]:
    """What the kernel says of a process; empty where it is gone."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return {}
    return dict(line.split(":\t", 1) for line in lines if ":\t" in line)
