"""Fill micro-batches by two budgets: LLM positions, and encoder frames padded to the longest audio.

The encoder pads, the LLM does not. So samples go in order of audio length, longest first, with a seeded jitter of a few
percent that keeps company changing. A micro-batch takes them in that order while there is room for several more, and
then, among the next :data:`WIDTH` neighbours in length, the few that fill it best: an exact subset sum over positions,
one bit a position, for each number of samples. Neighbours in length bound the padding, the subset sum the gap.

Cost: O(samples) for the bulk, and for each micro-batch WIDTH × DEPTH shifts of a ``max_positions``-bit number (0.2 ms).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, TypeVar

import numpy as np

from pipeline.frames import padded_frames

WIDTH = 20  # neighbours among which the last samples of a micro-batch are chosen: more fill better and pad more
RESERVE = 4  # mean samples, for which the room is left to choose
DEPTH = 6  # samples that are chosen so, at most
JITTER = 0.05  # relative
FULL = 0.95  # a micro-batch this full needs nothing from the next window


class Sized(Protocol):
    """Sizes that packing needs of a sample."""

    @property
    def positions(self) -> int:
        """LLM positions of prompt and target."""
        ...

    @property
    def frames(self) -> int:
        """Encoder frames."""
        ...


T = TypeVar("T", bound=Sized)


def pack(
    samples: Sequence[T], max_positions: int, max_frames: int, rng: np.random.Generator, multiple: int = 1
) -> tuple[list[list[T]], list[list[T]]]:
    """Pack samples, each of which fits an empty micro-batch.

    Args:
        samples: of one mode.
        max_positions: budget of LLM positions.
        max_frames: budget of encoder frames, padding included.
        rng: of the order.
        multiple: that rows of encoder frames are padded to.

    Returns:
        Full micro-batches, and those that another window could still fill: the last ones, at most WIDTH + 1.
    """
    weight = 1 + JITTER * rng.random(len(samples))
    order = sorted(range(len(samples)), key=lambda i: (samples[i].frames * weight[i], -i))
    left = [samples[i] for i in order]  # the next one is the last: taking it is cheap
    full: list[list[T]] = []
    rest: list[list[T]] = []
    while left:
        choice = len(left) > WIDTH
        batch = _fill(left, max_positions, max_frames, multiple)
        frames = len(batch) * padded_frames(max(s.frames for s in batch), multiple)
        fill = max(sum(s.positions for s in batch) / max_positions, frames / max_frames)
        (full if choice or fill >= FULL else rest).append(batch)
    return full, rest


def _fill(left: list[T], max_positions: int, max_frames: int, multiple: int) -> list[T]:
    """Take one micro-batch out of the samples that are left."""

    def row(sample: T) -> int:
        return padded_frames(sample.frames, multiple)

    batch = [left.pop()]
    room, longest = max_positions - batch[0].positions, row(batch[0])
    while left:
        near = left[-WIDTH:]
        mean = sum(s.positions for s in near) / len(near)
        most = max_frames // max(longest, *map(row, near)) - len(batch)  # of them fit, by frames
        if room < RESERVE * mean or most <= DEPTH:
            break
        batch.append(left.pop())
        room, longest = room - batch[-1].positions, max(longest, row(batch[-1]))
    near = left[-WIDTH:]
    fitting = [i for i, s in enumerate(near) if (len(batch) + 1) * max(longest, row(s)) <= max_frames]
    if not fitting:
        return batch
    most = max_frames // max(longest, *(row(near[i]) for i in fitting)) - len(batch)
    chosen = _best_subset([near[i].positions for i in reversed(fitting)], room, min(most, DEPTH))
    taken = sorted((fitting[len(fitting) - 1 - i] for i in chosen), reverse=True)
    first = len(left) - len(near)
    return batch + [left.pop(first + i) for i in taken]


def _best_subset(sizes: Sequence[int], room: int, most: int) -> list[int]:
    """Numbers of at most ``most`` sizes with the largest sum that is at most ``room``; of equal ones the first found.

    ``reached[i][n]`` has bit s set where n of the first i sizes sum to s.
    """
    if room < 0 or most < 1:
        return []
    mask = (1 << (room + 1)) - 1
    reached = [[1] + [0] * most]
    for size in sizes:
        last = reached[-1]
        reached.append([last[0], *((last[n] | last[n - 1] << size) & mask for n in range(1, most + 1))])
    best = max(sums.bit_length() - 1 for sums in reached[-1])
    n = next(n for n, sums in enumerate(reached[-1]) if sums >> best & 1)
    chosen: list[int] = []
    for i in range(len(sizes), 0, -1):
        if not reached[i - 1][n] >> best & 1:  # not without this one
            chosen.append(i - 1)
            best, n = best - sizes[i - 1], n - 1
    return chosen
