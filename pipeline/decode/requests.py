"""Requests of a service: prompts come at any time from any thread, each answer goes to the one who waits for it.

One thread lets the engine prepare what has come, another one steps it: the encoder runs while the LLM writes. A prompt
that the model cannot take fails alone. Requests are counted, not bounded: who takes them from a network bounds them.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from concurrent.futures import Future
from itertools import count
from queue import Empty, SimpleQueue
from threading import Lock, Thread
from typing import TYPE_CHECKING, TypeVar

from pipeline.decode.engine import Engine, Ready
from pipeline.decode.generate import Answer
from shards.errors import ModelError, SpeakerLMError

if TYPE_CHECKING:
    from pipeline.prompts import Prompt

logger = logging.getLogger(__name__)

T = TypeVar("T")


class Request:
    """A prompt and its answer to come."""

    def __init__(self, key: str, prompt: Prompt, requests: Requests) -> None:
        """Made by :meth:`Requests.submit`."""
        self.key, self.prompt = key, prompt
        self.answer: Future[Answer] = Future()  # for asyncio: asyncio.wrap_future; cancelling it cancels the request
        self._requests = requests

    def cancel(self) -> None:
        """Give the request up; its future is cancelled and its place in the batch is free. Later it does nothing."""
        self._requests.give_up(self)


class Requests:
    """A queue before an engine. Use as a context manager, or call :meth:`close`."""

    def __init__(self, engine: Engine, ahead: int = 8) -> None:
        """Start the threads.

        Args:
            ahead: most prompts that are prepared together.
        """
        self._engine, self._ahead = engine, ahead
        self._lock = Lock()
        self._keys = count()
        self._open: dict[str, Request] = {}
        self._failure: BaseException | None = None
        self._closed = False
        self._new: SimpleQueue[Request | None] = SimpleQueue()
        self._ready: SimpleQueue[tuple[Request, Ready] | None] = SimpleQueue()
        self._threads = [Thread(target=self._prepare, daemon=True), Thread(target=self._answer, daemon=True)]
        for thread in self._threads:
            thread.start()

    def __enter__(self) -> Requests:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __len__(self) -> int:
        """Return the number of requests without an answer."""
        return len(self._open)

    @property
    def failure(self) -> BaseException | None:
        """The error that ended the engine, such as memory that is exhausted; no request is taken after it."""
        return self._failure

    def submit(self, prompt: Prompt) -> Request:
        """Queue a prompt.

        Raises:
            ModelError: the queue is closed, or the engine has failed.
        """
        with self._lock:
            if self._closed or self._failure:
                raise ModelError(f"the engine takes no more requests: {self._failure or 'it is closed'}")
            request = Request(str(next(self._keys)), prompt, self)
            self._open[request.key] = request
        request.answer.add_done_callback(lambda answer: self.give_up(request) if answer.cancelled() else None)
        self._new.put(request)
        return request

    def give_up(self, request: Request) -> None:
        """Cancel a request."""
        with self._lock:
            if self._open.pop(request.key, None) is None:
                return
        request.answer.cancel()
        self._engine.abort(request.key)

    def close(self) -> None:
        """Cancel what is open, end the threads and close the engine."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
            left = list(self._open.values())
        for request in left:
            self.give_up(request)
        self._new.put(None)
        for thread in self._threads:
            thread.join()
        self._engine.close()

    # -------------------------------------------------------------------------------------------------- both threads

    def _prepare(self) -> None:
        """Prepare what has come, until None comes."""
        more = True
        while more:
            found = _drain(self._new, self._ahead, wait=True)
            more = None not in found
            waiting = [r for r in found if r is not None and r.key in self._open]
            for request, ready in self._prepared(waiting):
                self._ready.put((request, ready))
        self._ready.put(None)

    def _prepared(self, requests: Sequence[Request]) -> list[tuple[Request, Ready]]:
        """Prepare requests together; if one of them fails, each alone."""
        try:
            return list(zip(requests, self._engine.prepare([r.prompt for r in requests]), strict=True))
        except SpeakerLMError as e:
            if len(requests) == 1:
                self._fail(requests[0], e)
                return []
            return [pair for r in requests for pair in self._prepared([r])]
        except Exception as e:  # noqa: BLE001
            self._fail_all(e)
            return []

    def _answer(self) -> None:
        """Step the engine while it has work, until None comes."""
        taken: dict[str, tuple[Request, Ready]] = {}
        more = True
        while more:
            new = _drain(self._ready, None, wait=not taken)
            more = None not in new
            for pair in new:
                if pair is not None and pair[0].key in self._open:
                    taken[pair[0].key] = pair
                    self._engine.add(pair[0].key, pair[1])
                    if pair[0].key not in self._open:  # given up between the two lines above
                        self._engine.abort(pair[0].key)
            taken = {key: pair for key, pair in taken.items() if key in self._open}
            if taken and more:
                self._step(taken)

    def _step(self, taken: dict[str, tuple[Request, Ready]]) -> None:
        try:
            answers = self._engine.step()
        except SpeakerLMError as e:
            self._alone(list(taken.values()), e)
            taken.clear()
        except Exception as e:  # noqa: BLE001
            self._fail_all(e)
            taken.clear()
        else:
            for key, answer in answers.items():
                taken.pop(key, None)
                self._finish(key, answer)

    def _alone(self, pairs: Sequence[tuple[Request, Ready]], error: SpeakerLMError) -> None:
        """After an error of one of several requests: answer each alone, so that only that one fails."""
        for request, ready in pairs:
            if request.key not in self._open:
                continue
            if len(pairs) == 1:
                self._fail(request, error)
                continue
            try:
                self._engine.add(request.key, ready)
                while request.key in self._open:
                    for key, answer in self._engine.step().items():
                        self._finish(key, answer)
            except SpeakerLMError as e:
                self._fail(request, e)

    def _finish(self, key: str, answer: Answer) -> None:
        if (request := self._close(key)) is not None and request.answer.set_running_or_notify_cancel():
            request.answer.set_result(answer)

    def _fail(self, request: Request, error: BaseException) -> None:
        if self._close(request.key) is not None and request.answer.set_running_or_notify_cancel():
            request.answer.set_exception(error)

    def _fail_all(self, error: BaseException) -> None:
        """After a fault of the engine, fail every request, and take no more."""
        logger.error("the engine failed: %s: %s", type(error).__name__, error)
        with self._lock:
            self._failure = error
            left = list(self._open.values())
        for request in left:
            self._fail(request, ModelError(f"the engine failed: {type(error).__name__}: {error}"))

    def _close(self, key: str) -> Request | None:
        with self._lock:
            return self._open.pop(key, None)


def _drain(queue: SimpleQueue[T], most: int | None, wait: bool) -> list[T]:
    """Take what a queue holds, up to `most`; if it is empty, wait for the first."""
    found: list[T] = []
    while most is None or len(found) < most:
        try:
            found.append(queue.get(block=wait and not found))
        except Empty:
            break
    return found
