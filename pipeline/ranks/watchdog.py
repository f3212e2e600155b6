"""Hang detection with the stacks of every rank; detection of stragglers.

Each rank has a thread that ends the process after too long without a heartbeat. Heartbeats come at points that all
ranks reach together, so their limits expire together and each rank writes its stacks. A timeout of the collectives
alone would not show the cause: the ranks that wait in one are not the rank that hangs.
"""

from __future__ import annotations

import contextlib
import faulthandler
import os
import socket
import sys
import tempfile
import threading
import time
import weakref
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

from pipeline.ranks.collectives import all_gather_or_raise
from pipeline.ranks.device_idle import DeviceIdle
from pipeline.ranks.launch import Ranks
from pipeline.ranks.stop import FAILED

if TYPE_CHECKING:
    import torch

NCCL_RECORD = "nccl-rank-"  # and the rank: names of files that torchfrtrace reads
GRACE = 5.0  # seconds for other ranks to write their stacks, before the end of this one breaks their connections
ARM_AGAIN = 1.0  # seconds by which the last resort may come too early; less than GRACE
LAG = 1.5  # a straggler takes this many times the others' median …
LEAST_LAG = 0.02  # … and this many seconds per step more


class Watchdog:
    """Watchdog that ends this process if :meth:`beat` is not called in time; inactive outside :meth:`watching`."""

    def __init__(self, start_limit: float = 3600.0, limit: float = 600.0, folder: Path | None = None) -> None:
        """Take two limits in seconds, before and after the end of the first step, and a folder for files of stacks."""
        self._start_limit, self._limit, self._folder = start_limit, limit, folder
        self._what = "start-up"
        self._deadline = time.monotonic() + start_limit
        self._warm = False
        self._armed = 0.0  # when the last resort is due
        self._stopped = threading.Event()
        self._advice: Callable[[], str] = str

    @contextlib.contextmanager
    def watching(self, advice: Callable[[], str]) -> Iterator[Watchdog]:
        """Watch this process during the block."""
        self._advice = advice
        thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)
        self._deadline = time.monotonic() + self._start_limit
        self._arm()
        thread.start()
        try:
            yield self
        finally:
            self._stopped.set()
            thread.join()
            faulthandler.cancel_dump_traceback_later()

    @property
    def limit(self) -> float:
        """The current limit in seconds."""
        return self._limit if self._warm else self._start_limit

    def beat(self, what: str, *, warm: bool | None = None) -> None:
        """Restart the limit; ``what`` comes next. ``warm``: use the short limit from here on, or the long one again."""
        if warm is not None:
            self._warm = warm
        self._what = what
        self._deadline = time.monotonic() + self.limit
        self._arm()

    def note(self, what: str) -> None:
        """Record what this rank does now, without restarting the limit."""
        self._what = what

    def _arm(self) -> None:
        """Start the last resort: a C thread that also ends a process whose interpreter is blocked."""
        due = self._deadline + 2 * GRACE
        if not self._stopped.is_set() and not 0 <= due - self._armed < ARM_AGAIN:  # it starts a thread each time
            self._armed = due
            faulthandler.dump_traceback_later(self.limit + 2 * GRACE, exit=True, file=sys.__stderr__ or 2)

    def _watch(self) -> None:
        while not self._stopped.wait(min(1.0, max(0.05, self._deadline - time.monotonic()))):
            if time.monotonic() > self._deadline:
                self._end()

    def _end(self) -> None:
        rank = os.environ.get("RANK", "0")
        stacks = self._stacks()
        where = ""
        if self._folder is not None:
            with contextlib.suppress(OSError):
                self._folder.mkdir(parents=True, exist_ok=True)
                path = self._folder / f"rank-{int(rank):05d}.txt"
                path.write_text(stacks, encoding="utf-8")
                where = f" (also in {path})"
        text = (
            f"[rank {rank}] TrainingError: no progress for {self.limit:.0f} s during {self._what}. The stacks of this "
            f"rank are below{where}. The other ranks wait for the rank whose main thread is not in a collective. "
            f"{self._advice()}\n{stacks}"
        )
        with contextlib.suppress(OSError):
            os.write(2, text.encode(errors="replace"))
        if self._folder is not None and (record := flight_record()):
            with contextlib.suppress(OSError):
                (self._folder / f"{NCCL_RECORD}{int(rank)}").write_bytes(record)
        time.sleep(min(GRACE, self.limit))
        os._exit(FAILED)

    @staticmethod
    def _stacks() -> str:
        with tempfile.TemporaryFile() as file:
            faulthandler.dump_traceback(file, all_threads=True)
            file.seek(0)
            return file.read().decode(errors="replace")


def flight_record() -> bytes:
    """Return NCCL's flight record of collectives, for ``torchfrtrace``; empty if torch has no NCCL.

    NCCL itself writes it after its own timeout, which comes too late for this process.
    """
    import torch

    dump = getattr(torch._C._distributed_c10d, "_dump_nccl_trace", None)
    try:
        return dump() if dump else b""
    except RuntimeError:  # the process is about to end and its stacks are written
        return b""


class CollectiveClock:
    """Seconds that this process waited in collectives, to separate a rank's own time from the others'.

    On a CPU a collective returns when it is done. On a GPU it is only queued; there the clock knows the streams that
    collectives were queued on, and whether the host waits.
    """

    NAMES = ("all_reduce", "all_gather_into_tensor", "all_gather", "reduce_scatter_tensor", "reduce_scatter")
    MORE = ("reduce", "broadcast", "barrier", "all_gather_coalesced", "all_reduce_coalesced")

    def __init__(self, current_stream: Callable[[], Any] | None = None) -> None:
        self.seconds = 0.0
        self.depth = 0  # of blocks that wait now
        self._current_stream = current_stream
        self._streams: dict[int, Any] = {}  # of a GPU, by handle
        self._note_stream()

    @property
    def streams(self) -> list[Any]:
        """The GPU's streams that collectives were queued on, and the one that was current at first."""
        return list(self._streams.values())

    def _note_stream(self) -> None:
        if self._current_stream is not None:
            stream = self._current_stream()
            self._streams[stream.cuda_stream] = stream

    def install(self) -> CollectiveClock:
        """Wrap the calls of DeepSpeed's backend; in a version that keeps them elsewhere, nothing is counted."""
        backend = getattr(sys.modules.get("deepspeed.comm.comm"), "cdb", None)  # a run's launch has imported it
        for name in (*self.NAMES, *self.MORE):
            call = getattr(backend, name, None)
            if call is not None:
                setattr(backend, name, self._timed(getattr(call, "untimed", call)))
        return self

    @contextlib.contextmanager
    def waiting(self) -> Iterator[None]:
        """Count the time of the block."""
        began = time.perf_counter()
        self.depth += 1
        try:
            yield
        finally:
            self.depth -= 1
            self.seconds += time.perf_counter() - began

    def _timed(self, call: Callable[..., Any]) -> Callable[..., Any]:
        def timed(*args: Any, **kwargs: Any) -> Any:
            self._note_stream()
            with self.waiting():
                handle = call(*args, **kwargs)
            return _TimedHandle(handle, self) if hasattr(handle, "wait") else handle

        timed.untimed = call  # type: ignore[attr-defined]
        return timed


class _TimedHandle:
    """An asynchronous collective whose wait is counted."""

    def __init__(self, handle: Any, clock: CollectiveClock) -> None:
        self._handle, self._clock = handle, clock

    def wait(self, *args: Any) -> Any:
        with self._clock.waiting():
            return self._handle.wait(*args)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._handle, name)


class OwnTime:
    """Seconds of own work per step of every rank, and the straggler among them.

    On a CPU own work is all time outside collectives; on a GPU it is the time in which the device was idle because of
    this host: its data, storage, Python, a throttled CPU. A slow GPU is not seen.
    """

    def __init__(self, ranks: Ranks) -> None:
        self._hosts = all_gather_or_raise(ranks, socket.gethostname)
        self._clock = clock = CollectiveClock(_current_stream(ranks.device)).install()
        self._idle: DeviceIdle | None = None
        if ranks.device.type == "cuda":
            self._idle = DeviceIdle(lambda: clock.streams, lambda: not clock.depth)
            weakref.finalize(self, self._idle.stop)
        self.waiting = self._clock.waiting  # for collectives outside DeepSpeed
        self._began: float | None = None  # the first lap is not counted: it contains the start-up
        self._waited = 0.0  # of the clock, at the beginning of the lap
        self._sums = [0.0] * ranks.world_size
        self._count = 0
        self.laps: tuple[float, ...] = ()  # the last one of every rank

    def lap(self) -> float:
        """Return own seconds of this rank since the last :meth:`start`."""
        if self._began is None:
            return 0.0
        if self._idle is not None:
            return self._idle.seconds - self._waited
        return max(0.0, time.perf_counter() - self._began - (self._clock.seconds - self._waited))

    def start(self, everyone: Sequence[float]) -> None:
        """Begin a lap, after a collective; ``everyone``: the last laps of all ranks."""
        if self._began is not None:
            self._sums = [a + b for a, b in zip(self._sums, everyone, strict=True)]
            self._count += 1
        self.laps = tuple(everyone)
        self._began, self._waited = time.perf_counter(), (self._idle or self._clock).seconds

    def forget(self) -> None:
        """Discard the current lap, which contains something other than a step."""
        self._began = None

    def straggler(self) -> str | None:
        """Return a message that names the straggler since the last call, or None."""
        sums, count = self._sums, self._count
        self._sums, self._count = [0.0] * len(sums), 0
        rank = slowest(sums, count)
        if rank is None:
            return None
        others = median(s for r, s in enumerate(sums) if r != rank)
        return (
            f"rank {rank} on {self._hosts[rank]} is a straggler: {sums[rank] / count:.2f} s of own work per "
            f"step, the others' median is {others / count:.2f} s"
        )


def _current_stream(device: torch.device) -> Callable[[], Any] | None:
    """Return how to ask for the current stream of a GPU; None on a CPU."""
    if device.type != "cuda":
        return None
    import torch

    return torch.cuda.current_stream


def slowest(own_seconds: Sequence[float], steps: int) -> int | None:
    """Return the rank whose own work over these steps delays the others; None if all are about as fast."""
    if len(own_seconds) < 2 or not steps:
        return None
    worst = max(range(len(own_seconds)), key=own_seconds.__getitem__)
    usual = median(s for r, s in enumerate(own_seconds) if r != worst)
    lags = own_seconds[worst] > LAG * usual and own_seconds[worst] - usual > LEAST_LAG * steps
    return worst if lags else None


def nccl_environment(limit: float, folder: Path) -> dict[str, str]:
    """Return settings of torch's NCCL backend: a collective's timeout writes a flight record for ``torchfrtrace``.

    That the process then ends is torch's default (TORCH_NCCL_ASYNC_ERROR_HANDLING 3, which does not wait for the
    communicators of a hung device; 1 would).
    """
    return {
        "TORCH_NCCL_HEARTBEAT_TIMEOUT_SEC": str(int(limit) + 60),
        "TORCH_NCCL_DUMP_ON_TIMEOUT": "1",
        "TORCH_FR_BUFFER_SIZE": "20000",  # collectives in the record
        "TORCH_FR_DUMP_TEMP_FILE": str(folder / NCCL_RECORD),
    }
