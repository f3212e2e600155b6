"""Continuous batching over requests: one thread asks the model, with prompts of all requests that wait.

Requests take turns: a batch takes one prompt of each, then a second of each, and so on, first come, first served. An
hour of audio therefore delays a clip by one batch, and has batches of its own while no other request waits. Prompts of
a request that was cancelled are dropped before they are asked.

If a batch fails, its prompts are asked again one by one, so that only the request at fault gets the error.
"""

from __future__ import annotations

import threading
import traceback
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from logging import getLogger
from pathlib import Path

from pipeline.decode.generate import Answer
from pipeline.prompts import Prompt
from shards.errors import ModelError, SpeakerLMError

logger = getLogger(__name__)

POLL_S = 0.1  # between two looks at whether a waiting request was cancelled


@dataclass
class _Ticket:
    """Prompts of one request that wait together."""

    prompts: Sequence[Prompt]
    next: int = 0  # first prompt that no batch has taken
    answers: dict[int, Answer] = field(default_factory=dict)
    error: Exception | None = None
    cancelled: bool = False
    done: threading.Event = field(default_factory=threading.Event)

    def answer(self, number: int, answer: Answer) -> None:
        self.answers[number] = answer
        if len(self.answers) == len(self.prompts):
            self.done.set()

    def fail(self, error: Exception) -> None:
        self.error, self.cancelled = error, True
        self.done.set()


class Batcher:
    """Asks the model from one thread. Call :meth:`ask` from as many threads as there are requests."""

    def __init__(
        self,
        write: Callable[[Sequence[Prompt]], list[Answer]],
        most: int,
        observe: Callable[[Sequence[Answer]], None] = lambda _: None,
    ) -> None:
        """Start the thread.

        Args:
            write: prompts → answers.
            most: prompts in a batch.
            observe: called with the answers of each batch, from the thread.
        """
        self._write, self._most, self._observe = write, most, observe
        self._queue: deque[_Ticket] = deque()
        self._changed = threading.Condition()
        self._closed = False
        self.faults = 0  # failures in a row that are not a request's fault
        self._thread = threading.Thread(target=self._work, name="batcher", daemon=True)
        self._thread.start()

    @property
    def waiting(self) -> int:
        """Prompts that no batch has taken yet."""
        with self._changed:
            return sum(len(t.prompts) - t.next for t in self._queue if not t.cancelled)

    @property
    def alive(self) -> bool:
        """Whether the thread answers, and did not fail three times in a row."""
        return self._thread.is_alive() and self.faults < 3

    def ask(self, prompts: Sequence[Prompt], check: Callable[[], None] = lambda: None) -> list[Answer]:
        """Return answers in the order of the prompts; blocks.

        Args:
            check: raises if the request was cancelled; called while it waits.

        Raises:
            ModelError: the model cannot take a prompt, or the server stops.
        """
        check()
        if not prompts:
            return []
        ticket = _Ticket(prompts)
        with self._changed:
            if self._closed:
                raise ModelError("the server is stopping")
            self._queue.append(ticket)
            self._changed.notify()
        try:
            while not ticket.done.wait(POLL_S):
                check()
        finally:
            ticket.cancelled = True
        if ticket.error is not None:
            raise ticket.error
        return [ticket.answers[i] for i in range(len(prompts))]

    def close(self) -> None:
        """Stop the thread; requests that wait get an error."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._thread.join(timeout=60)

    def _work(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._queue or self._closed)
                if self._closed:
                    for ticket in self._queue:
                        ticket.fail(ModelError("the server is stopping"))
                    return
                batch = self._take()
            if batch:
                self._ask(batch)

    def _take(self) -> list[tuple[_Ticket, int]]:
        """Take prompts of the waiting requests in turn."""
        batch: list[tuple[_Ticket, int]] = []
        while self._queue and len(batch) < self._most:
            ticket = self._queue.popleft()
            if ticket.cancelled:
                continue
            batch.append((ticket, ticket.next))
            ticket.next += 1
            if ticket.next < len(ticket.prompts):
                self._queue.append(ticket)
        return batch

    def _ask(self, batch: list[tuple[_Ticket, int]]) -> None:
        try:
            answers = self._write([ticket.prompts[i] for ticket, i in batch])
        except Exception as e:  # noqa: BLE001 - given to the request, or asked again without the others
            if len(batch) > 1:
                for one in batch:
                    self._ask([one])
                return
            if not isinstance(e, SpeakerLMError):
                self.faults += 1
                logger.error("the model failed: %s", where(e))
            batch[0][0].fail(e)
            return
        self.faults = 0
        self._observe(answers)
        for (ticket, i), answer in zip(batch, answers, strict=True):
            ticket.answer(i, answer)


def where(error: BaseException) -> str:
    """Return the class of an exception and the line that raised it: its message may hold what a client sent."""
    frames = traceback.extract_tb(error.__traceback__)
    line = f" at {Path(frames[-1].filename).name}:{frames[-1].lineno}" if frames else ""
    return f"{type(error).__name__}{line}"
