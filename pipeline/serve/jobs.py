"""Work of one request in a thread, its events in the event loop, and its end: an answer, an error, or a client gone."""

from __future__ import annotations

import asyncio
import shutil
import tempfile
import threading
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from pipeline.serve.errors import ApiError
from shards.errors import StoppingError

T = TypeVar("T")

KEEP_ALIVE_S = 15.0  # without an event, after which a streamed answer shows that it continues


class Cancelled(Exception):
    """The client left."""


class Job:
    """A request in the server, from its first byte to its last."""

    def __init__(self, seconds: float, spool: Path, released: Callable[[Job], None]) -> None:
        """Make the request's folder; call in the event loop.

        Args:
            seconds: after which it ends with an error.
            spool: folder for the request's folder.
            released: called once with the job, when no thread works for it any more.
        """
        self._seconds = seconds
        self._deadline = time.monotonic() + seconds
        self._loop = asyncio.get_running_loop()
        self._events: asyncio.Queue[Any] = asyncio.Queue()
        self._released: Callable[[Job], None] | None = released
        self._stopped = asyncio.Event()
        self._lock = threading.Lock()
        self._future: Future[Any] | None = None
        self.cancelled = threading.Event()
        self.folder = Path(tempfile.mkdtemp(dir=spool))
        self.names: dict[Path, str] = {}  # files → what a client calls them

    def check(self) -> None:
        """Raise if the client left or the time is up; called from the job's thread.

        Raises:
            Cancelled, ApiError: so it is.
        """
        if self.cancelled.is_set():
            raise Cancelled
        if time.monotonic() > self._deadline:
            raise self._late()

    def _late(self) -> ApiError:
        return ApiError(504, f"the request took longer than {self._seconds:g} s", "timeout")

    def checked(self, blocks: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
        """Yield blocks of audio as long as the request lives."""
        for block in blocks:
            self.check()
            yield block

    def emit(self, event: Any) -> None:
        """Hand an event to the event loop; called from the job's thread."""
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._events.put_nowait, event)

    def start(self, submit: Callable[..., Future[Any]], work: Callable[[], Any]) -> None:
        """Begin the work in a thread."""
        self._future = submit(work)
        self._future.add_done_callback(self._ended)

    def _ended(self, _: Future[Any]) -> None:
        self.emit(None)
        self.release()

    def stop(self) -> None:
        """End the job with an error, since the server ends; called in the event loop."""
        self.cancelled.set()
        self._stopped.set()
        self._events.put_nowait(None)

    async def unless_stopped(self, work: Coroutine[Any, Any, T]) -> T:
        """Do what comes before the work of the thread, such as reading the upload.

        Raises:
            StoppingError: the server ends meanwhile. What `work` raises is raised too.
        """
        found: T = await self._or_gone(asyncio.ensure_future(work), None, timed=False)
        return found

    async def result(self, receive: Callable[[], Any] | None = None) -> Any:
        """Wait for the work's result.

        Args:
            receive: of the request: the job is cancelled when the client leaves.

        Raises:
            Cancelled: the client left.
            ApiError: the time is up. What the work raised is raised too.
            StoppingError: the server ends.
        """
        assert self._future is not None
        return await self._or_gone(asyncio.wrap_future(self._future), receive)

    async def first(self, receive: Callable[[], Any]) -> Any:
        """Wait for the first event; raise what the work raised before it. See :meth:`result`."""
        event = await self._or_gone(asyncio.ensure_future(self._events.get()), receive)
        if event is None:
            await self.result()
        return event

    async def _or_gone(self, wanted: asyncio.Future[Any], receive: Callable[[], Any] | None, timed: bool = True) -> Any:
        stopped = asyncio.ensure_future(self._stopped.wait())
        waiting: list[asyncio.Future[Any]] = [wanted, stopped]
        if receive:
            waiting.append(asyncio.ensure_future(_disconnected(receive)))
        try:
            left = max(0.0, self._deadline - time.monotonic()) if timed else None
            ended, _ = await asyncio.wait(waiting, timeout=left, return_when=asyncio.FIRST_COMPLETED)
            if stopped in ended and not (wanted.done() and not wanted.cancelled() and wanted.exception() is None):
                raise StoppingError("the server is stopping")
            if wanted in ended:
                return wanted.result()
            self.cancelled.set()
            raise Cancelled if ended else self._late()
        finally:
            if not wanted.done():
                self.cancelled.set()
            for task in waiting:
                task.cancel()

    async def events(self) -> AsyncIterator[Any]:
        """Yield the events after the first; None where there was no event for a while. The work's error is raised."""
        try:
            while True:
                try:
                    event = await asyncio.wait_for(self._events.get(), KEEP_ALIVE_S)
                except TimeoutError:
                    yield None
                    continue
                if event is None:
                    break
                yield event
            await self.result()
        finally:
            self.cancelled.set()

    def release(self) -> None:
        """Remove the request's files and give its place to another; a second call does nothing."""
        with self._lock:
            released, self._released = self._released, None
        if released is not None:
            shutil.rmtree(self.folder, ignore_errors=True)
            released(self)

    def abandon(self) -> None:
        """End a job; its place is free once its thread has noticed."""
        self.cancelled.set()
        if self._future is None or self._future.cancel():
            self.release()


async def _disconnected(receive: Callable[[], Any]) -> None:
    while (await receive())["type"] not in ("http.disconnect", "websocket.disconnect"):
        pass
