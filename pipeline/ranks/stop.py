"""Stop signals and time limits; exit codes and failure reporting of a rank.

A batch system signals one process, some processes, or all of them at different moments. A signal therefore only sets a
flag; the flags are reduced together with the numbers of each step, and all ranks act on them after the same step.
"""

from __future__ import annotations

import math
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from types import FrameType

from shards.errors import SpeakerLMError

REQUEUE = 85  # exit code: saved and stopped on request; the same command continues
FAILED = 1
STOP_SIGNALS = (signal.SIGTERM, signal.SIGUSR1)

MOST_MARGIN = 0.25  # of the time that a job has left at the start
_LAUNCHERS = (b"bin/deepspeed", b"deepspeed.launcher", b"bin/torchrun", b"torch.distributed.run")
_LOST_PEER = (
    "connection closed by peer",
    "connection reset",
    "timed out",
    "timeout",
    "connection refused",
    "broken pipe",
)


class StopRequest:
    """Whether this process was asked to stop: by a signal, a time limit, or the death of its launcher.

    A second signal changes nothing. DeepSpeed's launcher dies of SIGTERM without stopping its ranks, which would
    continue to train unnoticed.
    """

    def __init__(self) -> None:
        self.signal: int | None = None
        self._launchers = launchers(os.getppid())
        self._owner = os.getpid()
        self._began = time.time()
        self._end = math.inf
        self.cut_short = False  # a stage was stopped by --max-steps: the next one does not begin
        self.margin = 0.0  # seconds between the moment to stop and the end of the job
        self.warning = ""  # for the user, if a limit was reduced

    def at_the_latest(self, limit: float | None, margin: float) -> StopRequest:
        """Also stop ``limit`` seconds after the start, and ``margin`` seconds before the end of a Slurm job.

        The margin is at most a quarter of the time left at the start: with a margin as long as the job, no job would
        make a step. An earlier limit stays, so a later stage has no more time than an earlier one left.
        """
        ends, self.margin = [] if limit is None else [self._began + limit], margin
        job = os.environ.get("SLURM_JOB_END_TIME", "")
        if job.isdecimal():
            left = max(0.0, float(job) - self._began)
            kept = min(margin, MOST_MARGIN * left)
            ends.append(float(job) - kept)
            self.margin = kept
            if kept < margin:
                self.warning = (
                    f"the job has {left:.0f} s left, too few for trainer.stop_margin_seconds {margin:.0f}: it saves "
                    f"and stops {kept:.0f} s before its end. Give jobs more time, or lower the margin to what a step "
                    "and a save take"
                )
        self._end = min([self._end, *ends])
        return self

    def install(self) -> StopRequest:
        """Install the signal handlers of this process; forked workers ignore the signals."""
        for number in STOP_SIGNALS:
            signal.signal(number, self._note)
        return self

    @property
    def is_set(self) -> bool:
        """Whether a stop signal has arrived, the time is up, or the launcher is dead."""
        return (
            self.signal is not None or time.time() >= self._end or any(_start_time(p) != t for p, t in self._launchers)
        )

    def _note(self, number: int, _: FrameType | None) -> None:
        if os.getpid() == self._owner and self.signal is None:
            self.signal = number


def launchers(pid: int) -> list[tuple[int, int | None]]:
    """Return (process id, start time) of ``pid`` and its ancestors that are deepspeed or torchrun."""
    found = []
    while _is_launcher(pid):
        found.append((pid, _start_time(pid)))
        pid = int(_stat(pid)[1])
    return found


def _is_launcher(pid: int) -> bool:
    try:
        words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except OSError:
        return False
    return b"python" in words[0] and any(mark in word for word in words[1:4] for mark in _LAUNCHERS)


def _start_time(pid: int) -> int | None:
    """Return the start time in ticks since boot; None for a process that has ended or is a zombie."""
    try:
        stat = _stat(pid)
    except OSError:
        return None
    return None if stat[0] == "Z" else int(stat[19])


def _stat(pid: int) -> list[str]:
    """Return the fields of /proc/PID/stat from the third on; the second, a name, may contain spaces."""
    return Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()


def guarded(run: Callable[[], int], advice: Callable[[], str]) -> int:
    """Return the exit code of ``run``; report an error of this rank on stderr.

    Args:
        advice: what the user should do about a fault of another rank or of the machine.
    """
    try:
        return run()
    except SpeakerLMError as e:
        _report(f"{type(e).__name__}: {e}")
    except Exception as e:  # noqa: BLE001 - it is reported, and the process ends
        if isinstance(e, RuntimeError) and lost_peer(e):
            why = f"it was killed, or its own message says why ({_first_line(e)})"
            _report(f"lost the connection to another rank: {why}. {advice()}")
        else:
            traceback.print_exc()
            _report(f"{type(e).__name__}: {e}\nThis is a fault of the program or the machine. {advice()}")
    return FAILED


def lost_peer(error: BaseException) -> bool:
    """Return whether a collective failed because another rank died or hung."""
    import torch

    if isinstance(error, torch.distributed.DistNetworkError | torch.distributed.DistBackendError):
        return True
    text = str(error).lower()
    return any(phrase in text for phrase in _LOST_PEER)


def leave(code: int) -> None:
    """End this process at once: after a fault, waiting for peers or worker processes could hang for ever."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _report(message: str) -> None:
    print(f"[rank {os.environ.get('RANK', '0')}] {message}", file=sys.stderr, flush=True)


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:160]
