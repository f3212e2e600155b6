"""The engine on our own model and transformers' ``generate``: whole batches, padded to their longest prompt."""

from __future__ import annotations

from collections.abc import Sequence
from threading import Lock
from typing import TYPE_CHECKING, Any

from pipeline.decode.engine import Ready
from pipeline.decode.generate import Answer, ask
from pipeline.model.stopping import Guards
from shards.errors import SpeakerLMError

if TYPE_CHECKING:
    from pipeline.prompts import Prompt, PromptTokenizer


class TransformersEngine:
    """Answers all prompts that wait, or the first `batch` of them, in one step."""

    def __init__(
        self,
        model: Any,
        tokenizer: PromptTokenizer,
        guards: Guards | None = None,
        batch: int | None = None,
        quantize: str | None = None,
    ) -> None:
        """Take a loaded model, on its device.

        Args:
            batch: most prompts of a step; None: all that wait.
            quantize: how the model's weights were quantized.
        """
        self.model, self.tokenizer, self.guards = model, tokenizer, guards or Guards()
        self._batch, self._quantize = batch, quantize
        self._waiting: dict[str, Ready] = {}
        self._running: set[str] = set()
        self._aborted: set[str] = set()
        self._lock = Lock()  # of the three

    def described(self) -> dict[str, Any]:
        """Return how weights are quantized; else nothing, as decoded folders hold that name no engine."""
        return {"quantize": self._quantize} if self._quantize else {}

    def prepare(self, prompts: Sequence[Prompt]) -> list[Ready]:
        """Return the prompts with their limits; the encoder runs with the batch."""
        return [Ready(p, self.guards.limit(len(p.waveform))) for p in prompts]

    def add(self, key: str, ready: Ready) -> None:
        """Queue a prompt."""
        with self._lock:
            self._waiting[key] = ready

    def step(self) -> dict[str, Answer]:
        """Answer a batch of those that wait; once all of them are aborted, its generation ends."""
        with self._lock:
            batch = {key: self._waiting.pop(key) for key in list(self._waiting)[: self._batch]}
            self._running = set(batch)
        try:
            prompts = [ready.prompt for ready in batch.values()]
            answers = ask(self.model, self.tokenizer, prompts, self.guards, interrupt=self._unwanted)
            return {key: a for key, a in zip(batch, answers, strict=True) if key not in self._aborted}
        except SpeakerLMError:
            with self._lock:
                self._waiting.clear()
            raise
        finally:
            with self._lock:
                self._running, self._aborted = set(), set()

    def abort(self, key: str) -> None:
        """Drop a prompt: before its batch begins, or by dropping its answer."""
        with self._lock:
            if self._waiting.pop(key, None) is None and key in self._running:
                self._aborted.add(key)

    def close(self) -> None:
        """Let go of the model."""
        self.model = None

    def _unwanted(self) -> bool:
        return self._running <= self._aborted
