"""Greedy decoding of a batch of prompts with a KV cache, with the guards of :mod:`pipeline.model.stopping`.

The text up to where a guard stopped an answer is kept, and the answer says how it ended.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from pipeline.model.stopping import Guards, LoopStoppingCriteria
from shards.errors import ConfigError

if TYPE_CHECKING:
    from pipeline.prompts import Prompt, PromptTokenizer

Stop = Literal["end", "loop", "limit"]


@dataclass(frozen=True, slots=True)
class Answer:
    """A model's text, and why it ended: ``end`` (end-of-text token), ``loop`` or ``limit`` (a guard)."""

    text: str
    stop: Stop
    tokens: int
    ids: tuple[int, ...] = ()  # these tokens, without the end-of-text token


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
        row = row[: row.index(tokenizer.eos)]
        return Answer(tokenizer.decode(row), "end", len(row), tuple(row))
    return Answer(tokenizer.decode(row), "loop" if looped else "limit", len(row), tuple(row))


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
