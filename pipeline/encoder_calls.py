"""Audios of a micro-batch in a fixed number of encoder calls: plain arithmetic, shared by plan, batch and meter.

A dialogue has slices of 0.1 to 50 s, and the encoder pads the rows of a call to its longest. So the slices, sorted by
length, are split into at most K calls such that as few frames as possible are padding. The number of calls does not
depend on the data: a call without a slice computes a dummy (data/collate.py), because under ZeRO-3 every call is a
collective.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from pipeline.frames import encoder_frames, padded_frames


def partition(frames: Sequence[int], calls: int, multiple: int = 1) -> list[list[int]]:
    """Split slices into at most ``calls`` groups of neighbours in length with the fewest padded frames.

    Args:
        frames: encoder frames of each slice.
        multiple: rows are padded to a multiple of it.

    Returns:
        Numbers of the slices by group, the longest first. Cost: calls × slices² simple operations.
    """
    if calls <= 1 or len(frames) <= 1:
        return [list(range(len(frames)))] if frames else []
    order = sorted(range(len(frames)), key=lambda i: (-frames[i], i))
    rows = np.array([padded_frames(frames[i], multiple) for i in order], dtype=np.int64)
    n = len(rows)
    counts = np.arange(1, n + 1)
    best = rows[0] * counts  # of the first j + 1 slices in one group
    cuts: list[np.ndarray] = []
    for _ in range(min(calls, n) - 1):
        # A group from i to j costs (j - i + 1) · rows[i]; what is before costs best[i - 1].
        sizes = counts[None, :] - counts[:, None] + 1
        costs = np.where(sizes > 0, _before(best)[:, None] + sizes * rows[:, None], np.iinfo(np.int64).max)
        cuts.append(costs.argmin(axis=0))
        best = costs.min(axis=0)
    groups: list[list[int]] = []
    stop = n
    for cut in reversed(cuts):
        start = int(cut[stop - 1])
        groups.append(order[start:stop])
        stop = start
        if not stop:
            break
    if stop:
        groups.append(order[:stop])
    return groups[::-1]


def partition_audios(lengths: Sequence[int], calls: int, multiple: int = 1) -> list[list[int]]:
    """As :func:`partition`, of audios of so many samples."""
    return partition([encoder_frames(n) for n in lengths], calls, multiple)


def _before(best: np.ndarray) -> np.ndarray:
    """Costs of the slices before each."""
    return np.concatenate([[0], best[:-1]])


def computed_frames(frames: Sequence[int], calls: int, multiple: int = 1) -> int:
    """Return the frames that the encoder computes for these slices."""
    groups = partition(frames, calls, multiple)
    return sum(len(group) * max(padded_frames(frames[i], multiple) for i in group) for group in groups)
