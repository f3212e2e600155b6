"""Jobs over processes, one for each place: a core, or an accelerator. Whoever is free gets the next job."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import AbstractContextManager, ExitStack, contextmanager
from functools import partial
from itertools import islice
from multiprocessing import get_context
from multiprocessing.util import Finalize
from typing import Any, TypeVar

from shards.errors import ConfigError

R = TypeVar("R")
Setup = Callable[[str], AbstractContextManager[Callable[..., R]]]
_AHEAD = 2  # jobs that a process has been given: the next one waits for it
_work: Callable[..., Any] | None = None  # of this process


def spread(setup: Setup[R], places: Sequence[str], jobs: Iterator[tuple[Any, ...]]) -> Generator[R, None, None]:
    """Results as they come, of ``setup(place)`` called with each job. With one place all happens in this process.

    Args:
        setup: called once in each process; what it gives is entered there. Has to be picklable.
        jobs: arguments; only a few are taken ahead.

    Raises:
        ConfigError: a process was killed. Errors of a job or of `setup` are raised as they are.
    """
    if len(places) == 1:
        with setup(places[0]) as work:
            yield from (work(*job) for job in jobs)
        return
    with killed_workers_told(), ExitStack() as stack:
        pools = [stack.enter_context(process_pool(1, _begin, setup, place)) for place in places]
        running: dict[Future[R], ProcessPoolExecutor] = {}
        try:
            for pool in [p for _ in range(_AHEAD) for p in pools]:
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
def killed_workers_told() -> Iterator[None]:
    """Makes of a pool that lost a process a :class:`ConfigError`."""
    try:
        yield
    except BrokenProcessPool as error:
        raise ConfigError("a worker process was killed, for memory perhaps; run again, with fewer of them") from error


def process_pool(count: int, begin: Callable[..., None] | None = None, *args: Any) -> ProcessPoolExecutor:
    """Processes of one thread each, that end with this one even where it is killed."""
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
    global _work  # noqa: PLW0603 (set once in a process of its own)
    try:
        context = setup(place)
        _work = context.__enter__()
    except Exception as error:  # noqa: BLE001 (raised by the first job: a pool that fails here does not say why)
        _work = partial(_fail, error)
        return
    # Left before this process waits for its own children, and before multiprocessing closes its queues (priority 10):
    # a pool that was not shut down until then would never end.
    Finalize(None, context.__exit__, (None, None, None), exitpriority=100)


def _fail(error: Exception, *job: Any) -> Any:
    raise error


def _run(*job: Any) -> Any:
    assert _work is not None
    return _work(*job)
