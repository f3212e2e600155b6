"""A packed micro-batch, written out by hand from prompts and targets: what collation must give to the model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from pipeline.frames import audio_positions
from pipeline.prompts import AudioPiece, Mode, PromptTokenizer, SpeakerPiece, prompt_pieces
from tests.support.prompts import encode_target

DIM = 16


@dataclass(frozen=True)
class Example:
    """One training example."""

    mode: Mode
    names: tuple[str, ...]
    target: str
    waveform: torch.Tensor
    vectors: torch.Tensor  # (len(names), DIM)


def example(mode: Mode, names: Sequence[str], target: str, samples: int, seed: int) -> Example:
    """An example of noise with random speaker vectors."""
    generator = torch.Generator().manual_seed(seed)
    envelope = 0.05 + 0.1 * torch.rand(1 + samples // 1600, generator=generator).repeat_interleave(1600)[:samples]
    waveform = torch.randn(samples, generator=generator) * envelope
    return Example(mode, tuple(names), target, waveform, torch.randn(len(names), DIM, generator=generator))


def pack(examples: Sequence[Example], tokenizer: PromptTokenizer, stride: int = 2) -> dict[str, torch.Tensor]:
    """The arguments of ``SpeakerLM.forward``."""
    ids, positions, bounds, audio, speakers, at, labels = [], [], [0], [], [], [], []
    for e in examples:
        row: list[int] = []
        for item in tokenizer.encode_prompt(prompt_pieces(e.mode, e.names)):
            here = bounds[-1] + len(row)
            if isinstance(item, AudioPiece):
                n = audio_positions(len(e.waveform), stride)
                audio += range(here, here + n)
                row += [0] * n
            elif isinstance(item, SpeakerPiece):
                speakers.append(here)
                row.append(0)
            else:
                row.append(item)
        target = encode_target(tokenizer, [e.target]) if e.target else []
        first = bounds[-1] + len(row) - 1
        at += range(first, first + len(target))
        labels += target
        row += target
        ids += row
        positions += range(len(row))
        bounds.append(bounds[-1] + len(row))
    vectors = torch.cat([e.vectors for e in examples])
    return {
        "waveforms": torch.nn.utils.rnn.pad_sequence([e.waveform for e in examples], batch_first=True),
        "waveform_lengths": torch.tensor([len(e.waveform) for e in examples]),
        "input_ids": torch.tensor(ids),
        "position_ids": torch.tensor(positions),
        "cu_seqlens": torch.tensor(np.array(bounds), dtype=torch.int32),
        "audio_index": torch.tensor(audio),
        "speaker_vectors": vectors if len(vectors) else torch.zeros(1, DIM),
        "speaker_index": torch.tensor(speakers, dtype=torch.long),
        "target_index": torch.tensor(at, dtype=torch.long),
        "target_ids": torch.tensor(labels, dtype=torch.long),
    }
