"""Loader processes that end with whoever started them.

They ignore stop signals, because the main process decides when a run ends. torch and multiprocessing end a worker that
is left over by SIGTERM and then wait for it, for ever. So they are told to go, and killed where they do not.
"""

from __future__ import annotations

import atexit
import multiprocessing
import signal
import threading
from collections.abc import Callable, Generator, Iterable, Iterator
from functools import partial
from multiprocessing.process import BaseProcess
from typing import TypeVar

import torch

T = TypeVar("T")


def init_worker(_: int) -> None:
    """First thing that a worker does: the main process decides about signals; one thread for each process."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1):
        signal.signal(number, signal.SIG_IGN)
    torch.set_num_threads(1)


def owned(start: Callable[[], Iterator[T]]) -> Generator[T, None, None]:
    """Go through an iterator whose start starts processes, and see to it that they end. Close it when done with it.

    torch's handler of SIGCHLD would raise a worker's death wherever the main process happens to be. The one before is
    put back: torch then raises it where data are asked for, within 5 s.
    """
    before = set(multiprocessing.active_children())
    handler = signal.getsignal(signal.SIGCHLD)
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
        del items  # a DataLoader tells its workers to go when its iterator goes
        end()
        atexit.unregister(end)


def _end(workers: Iterable[BaseProcess]) -> None:
    for worker in workers:
        worker.kill()
    for worker in workers:
        worker.join()
