"""Fill micro-batches of dialogues, whose slices share a fixed number of encoder calls."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from pipeline.data.packing import JITTER
from pipeline.data.planned import PlannedSample
from pipeline.encoder_calls import computed_frames
from pipeline.frames import encoder_frames

SLACK = 1.2  # padded frames over frames that a first guess assumes


def pack_dialogues(
    samples: Sequence[PlannedSample],
    max_positions: int,
    max_frames: int,
    rng: np.random.Generator,
    calls: int,
    multiple: int = 1,
) -> tuple[list[list[PlannedSample]], list[list[PlannedSample]]]:
    """Fill micro-batches of dialogues by both budgets, each taking the largest samples that still fit.

    Returns:
        As :func:`pipeline.data.packing.pack`: full micro-batches, and the last one, which another window could fill.
    """
    weight = 1 + JITTER * rng.random(len(samples))
    left = [samples[i] for i in sorted(range(len(samples)), key=lambda i: (-samples[i].positions * weight[i], i))]
    packed: list[list[PlannedSample]] = []
    while left:
        batch: list[PlannedSample] = []
        room, frames, kept = max_positions, 0, []
        for sample in left:
            own = sum(encoder_frames(n) for n in sample.slices)
            fits = sample.positions <= room and (not batch or SLACK * (frames + own) <= max_frames)
            if fits and (not batch or _frames([*batch, sample], calls, multiple) <= max_frames):
                batch.append(sample)
                room, frames = room - sample.positions, frames + own
            else:
                kept.append(sample)
        packed.append(batch)
        left = kept
    return packed[:-1], packed[-1:]


def _frames(samples: Sequence[PlannedSample], calls: int, multiple: int) -> int:
    return computed_frames([encoder_frames(n) for s in samples for n in s.slices], calls, multiple)
