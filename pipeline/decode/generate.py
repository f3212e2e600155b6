"""Greedy decoding of a batch of prompts with a KV cache, with guards against text that never ends.

A model may repeat the same few tokens for ever. Two guards stop each answer of a batch:

- loop: the last tokens are one n-gram, repeated more often than in speech (Speaker-Reasoner: over 10 times);
- limit: a token count that grows with the audio, at a rate that no speaker reaches.

The text up to there is kept, and the answer says how it ended.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from shards.errors import ConfigError
from shards.sample import SAMPLE_RATE

if TYPE_CHECKING:
    from pipeline.prompts import Prompt, PromptTokenizer

Stop = Literal["end", "loop", "limit"]


@dataclass(frozen=True)
class Guards:
    """Limits at which an answer is stopped."""

    # Per second of audio, on top of `least_tokens`; fast Mandarin is about 6, two voices at once 12.
    tokens_per_second: float = 25.0
    least_tokens: int = 64
    max_new_tokens: int = 2048  # of any answer
    repeats: int = 10  # times that an n-gram may follow itself
    longest: int = 64  # tokens of the longest n-gram that is searched for
    shortest_run: int = 16  # least tokens of a loop, so that "ha ha ha" does not count as one

    def limit(self, num_samples: int) -> int:
        """Return the most tokens for audio of this length."""
        wanted = self.least_tokens + math.ceil(self.tokens_per_second * num_samples / SAMPLE_RATE)
        return max(1, min(self.max_new_tokens, wanted))


@dataclass(frozen=True, slots=True)
class Answer:
    """A model's text, and why it ended: ``end`` (end-of-text token), ``loop`` or ``limit`` (a guard)."""

    text: str
    stop: Stop
    tokens: int


def ask(
    model: Any,
    tokenizer: PromptTokenizer,
    prompts: Sequence[Prompt],
    guards: Guards | None = None,
    synced: bool = False,
    interrupt: Callable[[], bool] | None = None,
) -> list[Answer]:
    """Answer a batch of prompts, in their order.

    Args:
        synced: the model is partitioned by ZeRO-3, and every rank calls this at the same time.
        interrupt: called at each token; once it returns true, all answers end with the tokens so far.

    Raises:
        AudioError, SpeakerError: a prompt that the model cannot take, see :class:`SpeakerLMProcessor`.
    """
    if not prompts:
        return []
    import torch

    from pipeline.model.processing_speakerlm import SpeakerLMProcessor

    guards = guards or Guards()
    processor = SpeakerLMProcessor(tokenizer, model.config.projector["stride"], model.config.speaker_dim)
    inputs = {k: v.to(model.device) for k, v in processor.encode(prompts).items()}
    watch = LoopStoppingCriteria([guards.limit(len(p.waveform)) for p in prompts], tokenizer.eos, guards, interrupt)
    # Parameters that ZeRO-3 gathers in inference mode could not be trained afterwards.
    with torch.no_grad() if synced else torch.inference_mode():
        ids = model.eval().generate(
            **inputs,
            max_new_tokens=max(watch.limits),
            eos_token_id=tokenizer.eos,
            pad_token_id=tokenizer.pad,
            stopping_criteria=[watch],
            synced_gpus=synced,
        )
    return [_answer(row, tokenizer, n, looped) for row, n, looped in zip(ids.tolist(), *watch.ends(), strict=True)]


def _answer(row: list[int], tokenizer: PromptTokenizer, length: int, looped: bool) -> Answer:
    """Decode one row of ids, of which `length` were written before a guard stopped it."""
    row = row[:length]
    if tokenizer.eos in row:
        end = row.index(tokenizer.eos)
        return Answer(tokenizer.decode(row[:end]), "end", end)
    return Answer(tokenizer.decode(row), "loop" if looped else "limit", len(row))


class LoopStoppingCriteria:
    """Stopping criterion of transformers' ``generate``: called after each token, returns which rows are finished.

    For each row and each n-gram length p it counts how long the tokens have equalled those p before them; an n-gram
    that occurs r times in a row makes a run of p · (r - 1). One comparison per step; no token leaves the device.
    """

    def __init__(
        self, limits: Sequence[int], eos: int, guards: Guards, interrupt: Callable[[], bool] | None = None
    ) -> None:
        """Take each row's limit in tokens; ``interrupt`` may end all rows."""
        self.limits = list(limits)
        self._interrupt = interrupt
        self._eos, self._guards = eos, guards
        self._state: tuple[Any, ...] | None = None

    def __call__(self, input_ids: Any, scores: Any, **kwargs: Any) -> Any:
        """(B, tokens so far) → (B,) bool."""
        import torch

        device, steps = input_ids.device, input_ids.shape[1]
        if self._state is None:
            rows = len(self.limits)
            self._state = (
                torch.arange(1, self._guards.longest + 1, device=device),
                torch.tensor(self.limits, device=device),
                torch.zeros(rows, self._guards.longest, dtype=torch.long, device=device),  # runs
                torch.zeros(rows, dtype=torch.bool, device=device),  # finished
                torch.zeros(rows, dtype=torch.bool, device=device),  # by a loop
                torch.zeros(rows, dtype=torch.long, device=device),  # tokens when it finished
            )
        periods, limits, runs, finished, looped, lengths = self._state
        last = input_ids[:, -1:]
        before = input_ids[:, (steps - 1 - periods).clamp(min=0)]
        runs = torch.where((last == before) & (periods < steps), runs + 1, 0)
        needed = torch.maximum(periods * self._guards.repeats, self._guards.shortest_run - periods)
        in_loop = (runs >= needed).any(1)
        ended = last[:, 0] == self._eos
        looped = looped | (in_loop & ~finished & ~ended)
        now = ended | looped | (limits <= steps)
        if self._interrupt is not None and self._interrupt():
            now = torch.ones_like(now)
        lengths = torch.where(now & ~finished, steps, lengths)
        finished = finished | now
        self._state = (periods, limits, runs, finished, looped, lengths)
        return finished

    def ends(self) -> tuple[list[int], list[bool]]:
        """Return for each row the number of tokens, and whether a loop stopped it."""
        if self._state is None:
            return [0] * len(self.limits), [False] * len(self.limits)
        return self._state[5].tolist(), self._state[4].tolist()


def choose_device(device: str = "auto") -> str:
    """Return the device to use; ``auto`` is this process's GPU (LOCAL_RANK), or the CPU without a GPU.

    Raises:
        ConfigError: the device is unknown, or a GPU that torch does not see.
    """
    import torch

    if device == "auto":
        if not torch.cuda.is_available():
            return "cpu"
        local = int(os.environ.get("LOCAL_RANK") or os.environ.get("SLURM_LOCALID") or 0)
        return f"cuda:{local % torch.cuda.device_count()}"
    try:
        torch.device(device)
    except RuntimeError as e:
        raise ConfigError(f"unknown device {device!r}: use auto, cpu, cuda or cuda:1") from e
    if device.startswith("cuda") and not torch.cuda.is_available():
        raise ConfigError(f"device {device} is requested, but torch sees no GPU; use auto or cpu")
    return device


def load_for_decoding(run: Path, device: str) -> tuple[Any, PromptTokenizer, Any]:
    """Load a finished run: its model on a device in eval mode (bfloat16 on a GPU), tokenizer and recipe.

    Raises:
        ModelError, ConfigError: as :func:`pipeline.model.build.load_finished_run`.
    """
    import torch

    from pipeline.model.build import load_finished_run

    dtype = torch.bfloat16 if device.startswith("cuda") else torch.float32
    model, tokenizer, recipe = load_finished_run(run, dtype)
    return model.to(device).eval(), tokenizer, recipe  # type: ignore[arg-type]
