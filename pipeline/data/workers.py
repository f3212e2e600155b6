"""Loader processes that end with the process that started them.

They ignore stop signals, because the main process decides when a run ends. torch and multiprocessing end a remaining
worker by SIGTERM and then wait for it for ever. So workers are asked to exit, and killed if they do not.
"""

from __future__ import annotations

import atexit
import multiprocessing
import signal
import threading
import time
from collections.abc import Callable, Generator, Iterable, Iterator
from functools import partial
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import TypeVar

import torch

T = TypeVar("T")


def init_worker(_: int) -> None:
    """Initialise a worker: ignore stop signals, use one thread."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1):
        signal.signal(number, signal.SIG_IGN)
    torch.set_num_threads(1)


def until_quiet(limit: float = 0.5) -> None:
    """Wait until no other thread of this process runs, at most ``limit`` seconds.

    After a collective, gloo's threads (and perhaps NCCL's) release tensors. For that they take the lock
    over the interpreter's list of threads, without the GIL. A process that is forked then never starts: Python 3.11
    takes that lock in the child before it renews it (``PyOS_AfterFork_Child``). Of 40,000 forks right behind a
    collective on two ranks, 22 hung; of as many after this, none.
    """
    me, end = str(threading.get_native_id()), time.monotonic() + limit
    while time.monotonic() < end:
        time.sleep(0.01)
        if not any(_runs(task) for task in Path("/proc/self/task").iterdir() if task.name != me):
            return


def _runs(task: Path) -> bool:
    try:
        return (task / "stat").read_text(encoding="ascii", errors="replace").rpartition(")")[2].split()[0] == "R"
    except OSError:  # it has ended meanwhile
        return False


def owned(start: Callable[[], Iterator[T]]) -> Generator[T, None, None]:
    """Iterate over an iterator whose start starts processes, and end them. Close it after use.

    torch's handler of SIGCHLD would raise a worker's death at any place of the main process. The previous handler is
    restored: torch then raises it when data are requested, within 5 s.
    """
    before = set(multiprocessing.active_children())
    handler = signal.getsignal(signal.SIGCHLD)
    until_quiet()
    items = start()
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGCHLD, handler)
    end = partial(_end, set(multiprocessing.active_children()) - before)
    atexit.register(end)  # runs before multiprocessing's own, which would wait
    try:
        while True:
            try:
                item = next(items)
            except StopIteration:
                return
            yield item
    finally:
        del items  # a DataLoader ends its workers when its iterator is deleted
        end()
        atexit.unregister(end)


def _end(workers: Iterable[BaseProcess]) -> None:
    for worker in workers:
        worker.kill()
    for worker in workers:
        worker.join()
