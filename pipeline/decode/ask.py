"""Asking a model: prompts → answers, greedily, with a KV cache and with guards against text that never ends.

A model in a loop says the same few tokens until something stops it. Two things do, for each answer of a batch:

- a loop: the last tokens are one n-gram, repeated more often than speech does it (Speaker-Reasoner: over 10 times);
- a limit that grows with the audio: nobody says 25 tokens a second.

What was written up to there is kept as it stands, and the answer says how it ended.
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
    """When an answer is cut off."""

    tokens_per_second: float = (
        25.0  # of audio, on top of `least_tokens`; fast Mandarin is about 6, two voices at once 12
    )
    least_tokens: int = 64
    max_new_tokens: int = 2048  # whatever the audio
    repeats: int = 10  # an n-gram may stand there so often in a row
    longest: int = 64  # tokens of the longest n-gram that is looked for
    shortest_run: int = 16  # tokens that a loop has in all, so that "ha ha ha" is none

    def limit(self, num_samples: int) -> int:
        """Tokens that may answer so much audio."""
        wanted = self.least_tokens + math.ceil(self.tokens_per_second * num_samples / SAMPLE_RATE)
        return max(1, min(self.max_new_tokens, wanted))


@dataclass(frozen=True, slots=True)
class Answer:
    """What a model wrote, and why it stopped: ``end`` by itself, ``loop`` or ``limit`` by a guard."""

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
    """Answers to a batch of prompts, in their order.

    Args:
        synced: the model is in ZeRO-3 partitions, and every rank asks it something at the same time.
        interrupt: called at each token; once it is true the answers end as they stand.

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
    # What ZeRO-3 gathers in inference mode could not be trained on afterwards.
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
    """One row of ids, of which `length` were written before a guard stopped it."""
    row = row[:length]
    if tokenizer.eos in row:
        end = row.index(tokenizer.eos)
        return Answer(tokenizer.decode(row[:end]), "end", end)
    return Answer(tokenizer.decode(row), "loop" if looped else "limit", len(row))


class LoopStoppingCriteria:
    """A stopping criterion of transformers' ``generate``: called after each token, says which rows are finished.

    For each row and each n-gram length p it counts how long the tokens have equalled those p before them; an n-gram
    that stands there r times in a row makes a run of p · (r - 1). One comparison a step; no token leaves the device.
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
        """Of each row: tokens that were written, and whether a loop stopped it."""
        if self._state is None:
            return [0] * len(self.limits), [False] * len(self.limits)
        return self._state[5].tolist(), self._state[4].tolist()


def choose_device(device: str = "auto") -> str:
    """``auto`` as a device: this process's GPU (LOCAL_RANK) where there is one.

    Raises:
        ConfigError: a GPU is asked for that is not there.
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
        raise ConfigError(f"no device {device!r}: write auto, cpu, cuda or cuda:1") from e
    if device.startswith("cuda") and not torch.cuda.is_available():
        raise ConfigError(f"device {device} is asked for, but torch sees no GPU; leave the device out")
    return device


def load_for_decoding(run: Path, device: str) -> tuple[Any, PromptTokenizer, Any]:
    """A finished run's model on a device in eval mode (bfloat16 on a GPU), its tokenizer and its recipe.

    Raises:
        ModelError, ConfigError: as :func:`pipeline.model.build.load_finished_run`.
    """
    import torch

    from pipeline.model.build import load_finished_run

    dtype = torch.bfloat16 if device.startswith("cuda") else torch.float32
    model, tokenizer, recipe = load_finished_run(run, dtype)
    return model.to(device).eval(), tokenizer, recipe  # type: ignore[arg-type]
