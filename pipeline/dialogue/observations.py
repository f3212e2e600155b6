"""Observations: which stretches of a clip are looked at one by one.

The rule of Speaker-Reasoner's training data: segments A and B are separate observations only if their overlap is less
than τ of A **and** less than τ of B; else they are one, so that a backchannel stays inside the speech around it. Here
the rule is applied to the merged stretches again until nothing changes, which makes it idempotent. It is symmetric in A
and B by its form.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise


@dataclass(frozen=True, slots=True)
class Observation:
    """A stretch of the clip, in centiseconds, and the segments that belong to it."""

    start: int
    end: int
    segments: tuple[int, ...]  # their numbers, ascending


def separate(a: tuple[int, int], b: tuple[int, int], tau: float) -> bool:
    """Return whether two spans are separate observations."""
    overlap = min(a[1], b[1]) - max(a[0], b[0])
    return overlap < tau * (a[1] - a[0]) and overlap < tau * (b[1] - b[0])


def observe(spans: Sequence[tuple[int, int]], tau: float, most: int) -> list[Observation]:
    """Group segments into observations, in order of start.

    Args:
        spans: (start, end) of each segment in centiseconds, in order of start.
        tau: share of overlap from which two stretches are one.
        most: observations at most; the nearest neighbours are merged until there are no more.
    """
    groups = [Observation(a, b, (i,)) for i, (a, b) in enumerate(spans)]
    merged = True
    while merged:
        merged = False
        done: list[Observation] = []
        for group in groups:
            where = next(
                (i for i, o in enumerate(done) if not separate((o.start, o.end), (group.start, group.end), tau)), None
            )
            if where is None:
                done.append(group)
            else:
                done[where], merged = _union(done[where], group), True
        groups = sorted(done, key=lambda o: (o.start, o.end, o.segments))
    while len(groups) > most:
        gaps = [b.start - a.end for a, b in pairwise(groups)]
        at = min(range(len(gaps)), key=lambda i: (gaps[i], i))
        groups[at : at + 2] = [_union(groups[at], groups[at + 1])]
    return groups


def _union(a: Observation, b: Observation) -> Observation:
    return Observation(min(a.start, b.start), max(a.end, b.end), tuple(sorted(a.segments + b.segments)))
