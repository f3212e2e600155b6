"""An engine whose answers a function writes, for batches of all prompts that wait."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from pipeline.decode.engine import Ready
from pipeline.decode.generate import Answer
from pipeline.model.stopping import Guards
from pipeline.prompts import Prompt


class WriteEngine:
    """Answers what waits in one step, as the engine on transformers does."""

    tokenizer: Any = None

    def __init__(self, write: Callable[[Sequence[Prompt]], list[Answer]]) -> None:
        self.write, self.guards = write, Guards()
        self.closed = False
        self.aborted: list[str] = []
        self._waiting: dict[str, Ready] = {}

    def described(self) -> dict[str, Any]:
        return {}

    def prepare(self, prompts: Sequence[Prompt]) -> list[Ready]:
        return [Ready(prompt, 0) for prompt in prompts]

    def add(self, key: str, ready: Ready) -> None:
        self._waiting[key] = ready

    def step(self) -> dict[str, Answer]:
        batch, self._waiting = self._waiting, {}
        return dict(zip(batch, self.write([ready.prompt for ready in batch.values()]) if batch else [], strict=True))

    def abort(self, key: str) -> None:
        self.aborted.append(key)
        self._waiting.pop(key, None)

    def close(self) -> None:
        self.closed = True
