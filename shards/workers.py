"""Long work: jobs distributed over worker processes, one per place (a CPU core or an accelerator), and its progress."""

from __future__ import annotations

import contextlib
import ctypes
import io
import logging
import os
import signal
import sys
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import AbstractContextManager, ExitStack, contextmanager
from functools import partial
from itertools import islice
from multiprocessing import get_context
from multiprocessing.util import Finalize
from typing import Any, TypeVar

from tqdm import tqdm

from shards.errors import ConfigError

R = TypeVar("R")
Setup = Callable[[str], AbstractContextManager[Callable[..., R]]]
LINE_S = 60.0  # seconds between two lines of progress in a log
_QUEUED = 2  # jobs submitted to a process: one runs, the next one waits
_work: Callable[..., Any] | None = None  # this process's job function

logger = logging.getLogger(__name__)


def progress(
    iterable: Iterable[Any] | None = None, desc: str | None = None, total: float | None = None, **options: Any
) -> tqdm[Any]:
    """Return tqdm's bar on a terminal; elsewhere, as in the log of a batch job, it is one line per minute.

    A line says what is done, the rate and the time left. Work that takes less than a minute writes none.

    Args:
        options: of tqdm; ``disable=True`` shows nothing in either case.
    """
    if sys.stderr.isatty():
        return tqdm(iterable, desc, total, **options)
    return _Lines(iterable, desc, total, **options | {"mininterval": LINE_S, "delay": LINE_S, "miniters": 1})


class _Lines(tqdm):
    """Lines of a log instead of a bar."""

    monitor_interval = 0  # no thread: its lock would be held in forked processes

    def __init__(self, iterable: Iterable[Any] | None, desc: str | None, total: float | None, **options: Any) -> None:
        super().__init__(iterable, desc, total, file=io.StringIO(), **options)
        of, left = ("", "") if self.total is None else ("/{total_fmt}", ", {remaining} left")
        self.bar_format = f"{{desc}}: {{n_fmt}}{of} {{unit}}, {{rate_fmt}}{left}, {{elapsed}} elapsed{{postfix}}"

    def display(self, msg: str | None = None, pos: int | None = None) -> None:
        """Write a line; called by tqdm where it would draw the bar."""
        if msg is None:
            logger.info("%s", str(self).removeprefix(": "))


def run_jobs(setup: Setup[R], places: Sequence[str], jobs: Iterator[tuple[Any, ...]]) -> Generator[R, None, None]:
    """Yield the results of ``setup(place)`` called with each job, as they complete.

    With one place everything runs in this process.

    Args:
        setup: called once in each process; must be picklable. The context manager that it returns is entered there.
        jobs: arguments; only a few are taken in advance.

    Raises:
        ConfigError: a process was killed. Errors of a job or of `setup` are raised unchanged.
    """
    if len(places) == 1:
        with setup(places[0]) as work:
            yield from (work(*job) for job in jobs)
        return
    with report_killed_workers(), ExitStack() as stack:
        pools = [stack.enter_context(process_pool(1, _begin, setup, place)) for place in places]
        running: dict[Future[R], ProcessPoolExecutor] = {}
        try:
            for pool in [p for _ in range(_QUEUED) for p in pools]:
                running |= {pool.submit(_run, *job): pool for job in islice(jobs, 1)}
            while running:
                done, _ = wait(running, return_when=FIRST_COMPLETED)
                for future in done:
                    pool = running.pop(future)
                    running |= {pool.submit(_run, *job): pool for job in islice(jobs, 1)}
                yield from (future.result() for future in done)
        finally:
            for pool in pools:
                pool.shutdown(wait=False, cancel_futures=True)


@contextmanager
def report_killed_workers() -> Iterator[None]:
    """Raise :class:`ConfigError` if a pool loses a process."""
    try:
        yield
    except BrokenProcessPool as error:
        raise ConfigError("a worker process was killed, perhaps out of memory; run again with fewer workers") from error


def process_pool(count: int, begin: Callable[..., None] | None = None, *args: Any) -> ProcessPoolExecutor:
    """Start single-threaded processes that end with this one, even if it is killed."""
    return ProcessPoolExecutor(
        count, mp_context=get_context("spawn"), initializer=_be_worker, initargs=(os.getpid(), begin, args)
    )


def _be_worker(parent: int, begin: Callable[..., None] | None, args: tuple[Any, ...]) -> None:
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    with contextlib.suppress(OSError, AttributeError):  # not Linux
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
    if os.getppid() != parent:
        os._exit(1)
    if begin is not None:
        begin(*args)


def _begin(setup: Setup[Any], place: str) -> None:
    global _work  # noqa: PLW0603 (set once per process)
    try:
        context = setup(place)
        _work = context.__enter__()
    except Exception as error:  # noqa: BLE001 (raised by the first job: a pool whose initializer fails hides the reason)
        _work = partial(_fail, error)
        return
    # Exited before this process waits for its children, and before multiprocessing closes its queues (priority 10):
    # a pool that is still open then never ends.
    Finalize(None, context.__exit__, (None, None, None), exitpriority=100)


def _fail(error: Exception, *job: Any) -> Any:
    raise error


def _run(*job: Any) -> Any:
    assert _work is not None
    return _work(*job)
