"""Filling micro-batches by two budgets: LLM positions, and encoder frames padded to the longest audio.

The encoder pads, the LLM does not. So samples go in order of audio length, longest first, with a seeded jitter of a
few percent that keeps company changing; a few micro-batches stay open at a time and each sample takes the place where
it leaves least room. Open ones are neighbours in length, which bounds the padding. Cost: O(samples × open).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Generic, Protocol, TypeVar

import numpy as np

OPEN = 8  # micro-batches open at a time: more fill better and pad more
JITTER = 0.05  # relative
FULL = 0.95  # a micro-batch this full needs nothing from the next window


class Sized(Protocol):
    """What packing needs of a sample."""

    @property
    def positions(self) -> int:
        """LLM positions of prompt and target."""
        ...

    @property
    def frames(self) -> int:
        """Encoder frames."""
        ...


T = TypeVar("T", bound=Sized)


@dataclass
class Bin(Generic[T]):
    """A micro-batch that is being filled."""

    max_positions: int
    max_frames: int
    samples: list[T] = field(default_factory=list)
    positions: int = 0
    longest: int = 0  # encoder frames

    def room_after(self, sample: T) -> int | None:
        """Positions left if the sample were added; None where it does not fit."""
        room = self.max_positions - self.positions - sample.positions
        frames = (len(self.samples) + 1) * max(self.longest, sample.frames)
        return None if room < 0 or frames > self.max_frames else room

    def add(self, sample: T) -> None:
        """Put a sample in."""
        self.samples.append(sample)
        self.positions += sample.positions
        self.longest = max(self.longest, sample.frames)

    @property
    def fill(self) -> float:
        """Share of the budget that is nearer to its end."""
        return max(self.positions / self.max_positions, len(self.samples) * self.longest / self.max_frames)


def pack(
    samples: Sequence[T], max_positions: int, max_frames: int, rng: np.random.Generator
) -> tuple[list[list[T]], list[list[T]]]:
    """Pack samples, each of which fits an empty micro-batch.

    Returns:
        Full micro-batches, and those that another window could still fill (at most ``OPEN``).
    """
    weight = 1 + JITTER * rng.random(len(samples))
    order = sorted(range(len(samples)), key=lambda i: (-samples[i].frames * weight[i], i))
    closed: list[Bin[T]] = []
    opened: list[Bin[T]] = []
    for i in order:
        sample = samples[i]
        rooms = [(room, n) for n, b in enumerate(opened) if (room := b.room_after(sample)) is not None]
        if rooms:
            opened[min(rooms)[1]].add(sample)
            continue
        if len(opened) == OPEN:
            fullest = max(range(OPEN), key=lambda n: opened[n].fill)
            closed.append(opened.pop(fullest))
        fresh: Bin[T] = Bin(max_positions, max_frames)
        fresh.add(sample)
        opened.append(fresh)
    closed += [b for b in opened if b.fill >= FULL]
    return [b.samples for b in closed], [b.samples for b in opened if b.fill < FULL]
