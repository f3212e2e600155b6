"""Micro-batches of given lengths for benchmarks of the step: noise and random tokens, packed in one row or padded.

A sample is audio, then text of the prompt, then target. Both forms hold the same samples and give the same loss.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pipeline.frames import FRAME_SAMPLES, HOP_SAMPLES, LFR_SHIFT
from pipeline.model.loss import token_losses_sum

STRIDE = 2


@dataclass(frozen=True)
class Lengths:
    """Of one sample."""

    frames: int  # of the encoder
    text: int
    targets: int

    @property
    def audio(self) -> int:
        """LLM positions of the audio."""
        return -(-self.frames // STRIDE)

    @property
    def positions(self) -> int:
        """LLM positions."""
        return self.audio + self.text + self.targets

    @property
    def seconds(self) -> float:
        """Of audio."""
        return self.frames * LFR_SHIFT * 0.01


def utterances(count: int, seed: int = 0, scale: float = 1.0) -> list[Lengths]:
    """As ASR corpora have them: log-normal around 5.5 s, 1 to 20 s, 4 tokens a second."""
    rng = np.random.default_rng(seed)
    seconds = np.clip(rng.lognormal(np.log(5.5), 0.55, count), 1, 20) * scale
    return [Lengths(max(1, round(s * 16.67)), 20, max(2, round(4 * s))) for s in seconds]


def clips(count: int, seed: int = 0, scale: float = 1.0) -> list[Lengths]:
    """As the paper cuts meetings: 40 to 50 s, 5 tokens a second, prompts of no, few or many registered speakers."""
    rng = np.random.default_rng(seed)
    prompts = rng.choice([40, 70, 260], count)
    return [
        Lengths(round(s * scale * 16.67), max(4, round(scale * float(p))), max(2, round(5 * s * scale)))
        for s, p in zip(rng.uniform(40, 50, count), prompts, strict=True)
    ]


def full(positions: int, of: Sequence[Lengths]) -> list[Lengths]:
    """As many of these samples as fit, and a last one with just so much text that nothing is left."""
    out: list[Lengths] = []
    left = positions
    for sample in of:
        if sample.positions > left:
            break
        out.append(sample)
        left -= sample.positions
    if not out:
        return [Lengths(2 * (positions // 4), positions // 4, positions - 2 * (positions // 4))]
    last = out[-1]
    return [*out[:-1], Lengths(last.frames, last.text + left, last.targets)]


def micro_batch(
    samples: Sequence[Lengths], vocabulary: int, speaker_dim: int, device: str, pad: bool
) -> dict[str, Any]:
    """Arguments of the model's forward; with ``pad`` positions are those of rows of equal length (see padded_loss)."""
    generator = torch.Generator().manual_seed(1)
    longest = max(s.positions for s in samples)
    starts = [i * longest for i in range(len(samples))] if pad else _starts(samples)
    total = len(samples) * longest if pad else sum(s.positions for s in samples)
    audio, at, position_ids = [], [], torch.zeros(total, dtype=torch.long)
    for start, s in zip(starts, samples, strict=True):
        audio.append(torch.arange(start, start + s.audio))
        at.append(torch.arange(start + s.audio + s.text, start + s.positions) - 1)
        position_ids[start : start + s.positions] = torch.arange(s.positions)
    lengths = [((s.frames - 1) * LFR_SHIFT) * HOP_SAMPLES + FRAME_SAMPLES for s in samples]
    waves = 0.1 * torch.randn(len(samples), max(lengths), generator=generator)
    for wave, n in zip(waves, lengths, strict=True):
        wave[n:] = 0
    tokens = [torch.randint(0, vocabulary, (s.positions,), generator=generator) for s in samples]
    ids = torch.zeros(total, dtype=torch.long)
    for start, row in zip(starts, tokens, strict=True):
        ids[start : start + len(row)] = row
    target_index = torch.cat(at)
    on_device = {
        "waveforms": waves,
        "input_ids": ids,
        "position_ids": position_ids,
        "audio_index": torch.cat(audio),
        "speaker_vectors": torch.randn(1, speaker_dim, generator=generator),
        "speaker_index": torch.zeros(0, dtype=torch.long),
        "target_index": target_index,
        "target_ids": ids[target_index + 1],
    }
    return {name: t.to(device) for name, t in on_device.items()} | {
        "waveform_lengths": torch.tensor(lengths),
        "cu_seqlens": torch.tensor([*_starts(samples), sum(s.positions for s in samples)], dtype=torch.int32),
    }


def _starts(samples: Sequence[Lengths]) -> list[int]:
    return [0, *np.cumsum([s.positions for s in samples]).tolist()][:-1]


def padded_loss(model: Any, batch: dict[str, Any], samples: Sequence[Lengths]) -> Tensor:
    """The same loss from rows padded on the right to the longest, attention by sdpa with a mask."""
    longest = max(s.positions for s in samples)
    names = ("waveforms", "waveform_lengths", "input_ids", "audio_index", "speaker_vectors", "speaker_index")
    embeds = model.embed(**{name: batch[name] for name in names}).view(len(samples), longest, -1)
    sizes = torch.tensor([s.positions for s in samples], device=embeds.device)
    mask = torch.arange(longest, device=embeds.device) < sizes.unsqueeze(1)
    hidden = model.llm.get_decoder()(
        inputs_embeds=embeds,
        attention_mask=mask.long(),
        position_ids=batch["position_ids"].view(len(samples), longest),
        use_cache=False,
    ).last_hidden_state
    flat = hidden.flatten(0, 1).index_select(0, batch["target_index"])
    return token_losses_sum(model.llm.get_output_embeddings(), flat, batch["target_ids"])
