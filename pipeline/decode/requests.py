"""A queue before one engine: requests of many threads share its batches, each gets its own answers or its own error.

One thread lets the engine prepare prompts ahead, another one steps it: the encoder runs while the LLM writes. Requests
take turns: free places of the engine go to one prompt of each, then to a second of each, and so on, first come, first
served. An hour of audio therefore delays a clip by one batch, and has batches of its own while no other request waits.
Prompts of a request that was cancelled leave the engine.

If a step or an encoder call fails, its prompts are asked again one by one, so that only the request at fault gets the
error.
"""

from __future__ import annotations

import logging
import traceback
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from threading import Condition, Event, Thread
from typing import TYPE_CHECKING

from shards.errors import ModelError, SpeakerLMError, StoppingError

if TYPE_CHECKING:
    from pipeline.decode.engine import Engine, Ready
    from pipeline.decode.generate import Answer
    from pipeline.prompts import Prompt

logger = logging.getLogger(__name__)

POLL_S = 0.1  # between two looks at whether a waiting request was cancelled
FAULTS = 3  # failures in a row after which the engine counts as broken


class _Asked:
    """Prompts of one request that wait together."""

    def __init__(self, prompts: Sequence[Prompt]) -> None:
        self.new = deque(_Item(self, number, prompt) for number, prompt in enumerate(prompts))
        self.ready: deque[_Item] = deque()  # prepared, not in the engine yet
        self.answers: dict[int, Answer] = {}
        self.left = len(prompts)
        self.error: Exception | None = None
        self.done = Event()  # answered, failed or cancelled

    def answer(self, number: int, answer: Answer) -> None:
        self.answers[number] = answer
        self.left -= 1
        if not self.left:
            self.done.set()

    def end(self, error: Exception | None = None) -> None:
        """Drop what waits; a request that has ended keeps what it has."""
        if not self.done.is_set():
            self.error = error
        self.new.clear()
        self.ready.clear()
        self.done.set()


@dataclass(eq=False, slots=True)
class _Item:
    """One prompt."""

    asked: _Asked
    number: int  # in its request
    prompt: Prompt
    ready: Ready | None = None


@dataclass
class _Queue:
    """All that the threads share; under one lock."""

    open: set[_Asked] = field(default_factory=set)  # requests that have not ended
    turns: deque[_Asked] = field(default_factory=deque)  # those with prompts that are not in the engine
    running: dict[str, _Item] = field(default_factory=dict)  # in the engine, by key
    alone: deque[_Item] = field(default_factory=deque)  # asked again one by one
    closed: bool = False


class Requests:
    """Asks an engine. Call :meth:`ask` from as many threads as there are requests; :meth:`close` at the end."""

    def __init__(
        self,
        engine: Engine,
        places: int = 8,
        ahead: int = 8,
        observe: Callable[[Sequence[Answer], int], None] = lambda *_: None,
    ) -> None:
        """Start the threads.

        Args:
            places: most prompts in the engine.
            ahead: most prompts that are prepared before they have a place; each request may have one at any time.
            observe: called with the answers of a step and the number of prompts that were in the engine.
        """
        self._engine, self._places, self._ahead, self._observe = engine, places, ahead, observe
        self._keys = count()
        self._queue = _Queue()
        self._changed = Condition()
        self.faults = 0  # failures in a row that are not a request's fault
        self._threads = [
            Thread(target=work, name=name, daemon=True)
            for name, work in (("prepare", self._prepare), ("engine", self._work))
        ]
        for thread in self._threads:
            thread.start()

    def __enter__(self) -> Requests:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def waiting(self) -> int:
        """Prompts that have no place in the engine yet."""
        with self._changed:
            return len(self._queue.alone) + sum(len(a.new) + len(a.ready) for a in self._queue.turns)

    @property
    def alive(self) -> bool:
        """Whether the threads answer, and did not fail three times in a row."""
        return all(thread.is_alive() for thread in self._threads) and self.faults < FAULTS

    def ask(self, prompts: Sequence[Prompt], check: Callable[[], None] = lambda: None) -> list[Answer]:
        """Return answers in the order of the prompts; blocks.

        Args:
            check: raises if the request was cancelled; called while it waits.

        Raises:
            AudioError, SpeakerError, ModelError: the model cannot take a prompt, or the engine has failed.
            StoppingError: the queue is closed.
        """
        check()
        if not prompts:
            return []
        asked = _Asked(prompts)
        with self._changed:
            if self._queue.closed:
                raise StoppingError("the engine is stopping")
            self._queue.open.add(asked)
            self._queue.turns.append(asked)
            self._changed.notify_all()
        try:
            while not asked.done.wait(POLL_S):
                check()
                if not all(thread.is_alive() for thread in self._threads):
                    raise ModelError("the engine has ended")
        finally:
            self._end(asked)
        if asked.error is not None:
            raise asked.error
        return [asked.answers[i] for i in range(len(prompts))]

    def close(self) -> None:
        """End the threads and close the engine; requests that wait get an error."""
        with self._changed:
            if self._queue.closed:
                return
            self._queue.closed = True
            left = list(self._queue.open)
            self._changed.notify_all()
        for asked in left:
            self._end(asked, StoppingError("the engine is stopping"))
        for thread in self._threads:
            thread.join(timeout=60)
        self._engine.close()

    def _end(self, asked: _Asked, error: Exception | None = None) -> None:
        """End a request: its prompts leave queue and engine."""
        with self._changed:
            asked.end(error)
            queue = self._queue
            queue.open.discard(asked)
            if asked in queue.turns:
                queue.turns.remove(asked)
            queue.alone = deque(item for item in queue.alone if item.asked is not asked)
            keys = [key for key, item in queue.running.items() if item.asked is asked]
            for key in keys:
                del queue.running[key]
        for key in keys:
            self._engine.abort(key)

    # --------------------------------------------------------------------------------------------- the encoder's thread

    def _prepare(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._queue.closed or self._next_new() is not None)
                if self._queue.closed:
                    return
                items = self._take_new()
            self._prepare_together(items)

    def _next_new(self) -> _Asked | None:
        """Return the first request of which a prompt can be prepared."""
        full = sum(len(a.ready) for a in self._queue.turns) >= self._ahead
        return next((a for a in self._queue.turns if a.new and not (full and a.ready)), None)

    def _take_new(self) -> list[_Item]:
        """Take prompts to prepare: one of each request that has none prepared, then more of each in turn."""
        turns = self._queue.turns
        items = [a.new.popleft() for a in turns if a.new and not a.ready]
        room = self._ahead - len(items) - sum(len(a.ready) for a in turns)
        while room > 0 and (more := [a for a in turns if a.new][:room]):
            items += [a.new.popleft() for a in more]
            room -= len(more)
        return items

    def _prepare_together(self, items: Sequence[_Item]) -> None:
        """Prepare prompts in one call; if it fails, each alone."""
        try:
            found = self._engine.prepare([item.prompt for item in items])
        except Exception as e:  # noqa: BLE001 - given to the request, or tried again without the others
            if len(items) == 1:
                self._fail(items[0], e)
                return
            for item in items:
                if not item.asked.done.is_set():  # a request ends with its first fault, which counts once
                    self._prepare_together([item])
            return
        with self._changed:
            for item, ready in zip(items, found, strict=True):
                if item.asked not in self._queue.open:
                    continue
                item.ready = ready
                item.asked.ready.append(item)
                if item.asked not in self._queue.turns:
                    self._queue.turns.append(item.asked)
            self._changed.notify_all()

    # ---------------------------------------------------------------------------------------------- the engine's thread

    def _work(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._queue.closed or self._queue.running or self._has_next())
                if self._queue.closed:
                    return
                try:
                    self._fill_places()
                except Exception as e:  # noqa: BLE001
                    error: Exception | None = e
                else:
                    error = None
                together = len(self._queue.running)
                self._changed.notify_all()  # there is room to prepare more
            try:
                if error is not None:
                    raise error
                answers = self._engine.step()
            except Exception as e:  # noqa: BLE001 - given to the request, or asked again without the others
                self._ask_alone(e, together)
            else:
                self._give(answers, together)

    def _has_next(self) -> bool:
        return bool(self._queue.alone) or any(a.ready for a in self._queue.turns)

    def _fill_places(self) -> None:
        """Hand prompts to the engine: one that is asked alone, or those of the waiting requests in turn."""
        queue = self._queue
        if queue.alone:
            if not queue.running:
                self._add(queue.alone.popleft())
            return
        for _ in range(self._places - len(queue.running)):
            asked = next((a for a in queue.turns if a.ready), None)
            if asked is None:
                return
            queue.turns.remove(asked)
            item = asked.ready.popleft()
            if asked.new or asked.ready:
                queue.turns.append(asked)
            self._add(item)

    def _add(self, item: _Item) -> None:
        key = str(next(self._keys))
        self._queue.running[key] = item
        assert item.ready is not None
        self._engine.add(key, item.ready)

    def _ask_alone(self, error: Exception, together: int) -> None:
        """Take back what is in the engine; a prompt that was alone in it has failed.

        Args:
            together: prompts that were in it. One that is left may not be at fault: others may have been cancelled.
        """
        with self._changed:
            keys, items = list(self._queue.running), list(self._queue.running.values())
            self._queue.running.clear()
            if together > 1:
                self._queue.alone.extend(items)
        for key in keys:  # of those that an engine has dropped it knows nothing
            self._engine.abort(key)
        if together == 1 and items:
            self._fail(items[0], error)

    def _give(self, answers: dict[str, Answer], together: int) -> None:
        with self._changed:
            found = [(item, a) for key, a in answers.items() if (item := self._queue.running.pop(key, None))]
        if found:
            self.faults = 0
            self._observe([answer for _, answer in found], together)
        for item, answer in found:
            item.asked.answer(item.number, answer)

    def _fail(self, item: _Item, error: Exception) -> None:
        if not isinstance(error, SpeakerLMError):
            self.faults += 1
            logger.error("the model failed: %s", where(error))
        self._end(item.asked, error)


def where(error: BaseException) -> str:
    """Return the class of an exception and the line that raised it: its message may hold what a client sent."""
    frames = traceback.extract_tb(error.__traceback__)
    line = f" at {Path(frames[-1].filename).name}:{frames[-1].lineno}" if frames else ""
    return f"{type(error).__name__}{line}"
