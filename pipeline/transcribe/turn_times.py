"""Estimated times of turns, from voices or from text lengths alone: the model writes no times.

A chunk's turns are in order of their start, so they cut its speech, window by window, into as many stretches as there
are turns. The chosen cut gives each window to a turn of the speaker it sounds like, with lengths close to those of the
texts (dynamic programming; cost turns × windows²). A speaker's centroid is the mean of its windows; centroids and cut
are refined in turn. Overlapped speech is given to one of its speakers. Without voices, speech is divided in proportion
to the texts.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise, permutations
from math import perm

import numpy as np

from shards.voices.features import unit_norm

ROUNDS = 8
MOST_WAYS = 120  # assignments of window groups to speakers: all for up to four speakers
KEPT_STARTS = 6
WEIGHT_OF_LENGTH = 0.3  # of squared log ratio of a turn's share of time to its share of text


@dataclass(frozen=True)
class Aligned:
    """Times and voices of a chunk's turns."""

    times: list[tuple[float, float]]  # of each turn, seconds from the chunk's start
    voices: dict[str, tuple[np.ndarray, float]]  # label → (mean of its windows, unit norm; seconds)


def proportional(lengths: Sequence[int], spans: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Divide stretches of speech among turns in proportion to their text lengths."""
    if not lengths:
        return []
    spans = spans or [(0.0, 0.0)]
    edges = np.concatenate([[0.0], np.cumsum([max(1, n) for n in lengths])])
    total = sum(b - a for a, b in spans)
    edges = edges / edges[-1] * total
    return [(_at(float(a), spans, after=True), _at(float(b), spans, after=False)) for a, b in pairwise(edges)]


def _at(seconds: float, spans: Sequence[tuple[float, float]], after: bool) -> float:
    """Return the time in the chunk after so many seconds of speech; at a gap, its end (`after`) or its beginning."""
    for a, b in spans:
        if seconds < b - a - 1e-9 or (not after and seconds <= b - a + 1e-9):
            return a + max(0.0, seconds)
        seconds -= b - a
    return spans[-1][1]


def align(
    labels: Sequence[str],
    lengths: Sequence[int],
    spans: Sequence[tuple[float, float]],
    places: np.ndarray,
    vectors: np.ndarray,
    anchors: Mapping[str, np.ndarray] | None = None,
) -> Aligned:
    """Estimate times of turns and the voices of their speakers.

    Args:
        labels: speaker of each turn.
        lengths: characters of each turn.
        spans: stretches of speech, seconds from the chunk's start.
        places: (n, 2) windows in order of time.
        vectors: (n, dim) their unit vectors.
        anchors: vectors of known labels: enrolled people.
    """
    by_text = proportional(lengths, spans)
    if len(places) < max(2, len(labels)) or not labels:
        return Aligned(by_text, _voices(labels, _owners(by_text, places), places, vectors))
    different = list(dict.fromkeys(labels))
    share = np.maximum(1, np.array(lengths, float))
    expected = share / share.sum() * len(places)
    column = [different.index(label) for label in labels]
    starts = [_centroids(different, labels, _owners(by_text, places), vectors, anchors)]
    if len(different) > 1:
        starts += _clustered(different, labels, _owners(by_text, places), vectors, anchors)
    starts.sort(key=lambda c: -_cut((vectors @ c.T)[:, column], expected)[0])
    best = max(
        (_refine(c, different, labels, expected, vectors, anchors) for c in starts[:KEPT_STARTS]), key=lambda f: f[0]
    )
    owners = best[1]
    return Aligned(_times(owners, len(labels), places), _voices(labels, owners, places, vectors))


def _refine(
    centroids: np.ndarray,
    different: Sequence[str],
    labels: Sequence[str],
    expected: np.ndarray,
    vectors: np.ndarray,
    anchors: Mapping[str, np.ndarray] | None,
) -> tuple[float, np.ndarray]:
    """Refine cut and centroids in turn until the cut is stable; return its score and the turn of each window."""
    owners = np.zeros(0, int)
    score = -np.inf
    for _ in range(ROUNDS):
        column = [different.index(label) for label in labels]
        score, found = _cut((vectors @ centroids.T)[:, column], expected)
        if np.array_equal(found, owners):
            break
        owners = found
        centroids = _centroids(different, labels, owners, vectors, anchors)
    return score, owners


def _cut(similar: np.ndarray, expected: np.ndarray) -> tuple[float, np.ndarray]:
    """Find the best monotone cut of n windows into T turns, each of at least one window.

    Args:
        similar: (n, T) how much each window sounds like each turn's speaker.
        expected: (T,) windows that each turn should have by its text.
    """
    n, turns = similar.shape
    sums = np.concatenate([np.zeros((1, turns)), np.cumsum(similar, axis=0)])
    sizes = np.arange(n + 1)[None, :] - np.arange(n + 1)[:, None]  # [from, to]
    best = np.full(n + 1, -np.inf)
    best[0] = 0.0
    back = np.zeros((turns, n + 1), int)
    with np.errstate(divide="ignore", invalid="ignore"):
        logs = np.where(sizes > 0, np.log(np.maximum(sizes, 1)), 0.0)
    for t in range(turns):
        penalty = WEIGHT_OF_LENGTH * np.square(logs - np.log(expected[t])) * min(3.0, expected[t])
        score = best[:, None] + sums[None, :, t] - sums[:, None, t] - penalty
        score[sizes <= 0] = -np.inf
        back[t] = np.argmax(score, axis=0)
        best = score[back[t], np.arange(n + 1)]
    owners = np.zeros(n, int)
    end = n
    for t in range(turns - 1, -1, -1):
        start = int(back[t, end])
        owners[start:end] = t
        end = start
    return float(best[n]), owners


def _owners(times: Sequence[tuple[float, float]], places: np.ndarray) -> np.ndarray:
    """Return the turn that contains the middle of each window."""
    if not len(times):
        return np.zeros(0, int)
    ends = np.array([b for _, b in times])
    return np.minimum(np.searchsorted(ends, places.mean(axis=1)), len(times) - 1) if len(places) else np.zeros(0, int)


def _centroids(
    different: Sequence[str],
    labels: Sequence[str],
    owners: np.ndarray,
    vectors: np.ndarray,
    anchors: Mapping[str, np.ndarray] | None,
) -> np.ndarray:
    """Return (speakers, dim): an anchor, the mean of the speaker's windows, or, without windows, the mean of all."""
    rows = []
    for label in different:
        mine = np.array([labels[o] == label for o in owners], bool)
        mean = vectors[mine].mean(0) if mine.any() else vectors.mean(0)
        rows.append(anchors[label] if anchors and label in anchors else mean)
    return unit_norm(np.stack(rows))


def _clustered(
    different: Sequence[str],
    labels: Sequence[str],
    owners: np.ndarray,
    vectors: np.ndarray,
    anchors: Mapping[str, np.ndarray] | None,
) -> list[np.ndarray]:
    """Return further initial centroids: windows clustered by voice, in every assignment of clusters to speakers.

    There are as many clusters as speakers, or one more, for windows with two speakers. If there are too many
    assignments, the one is used in which clusters and proportional times have the most windows in common.
    """
    from scipy.cluster.hierarchy import fcluster, linkage
    from scipy.optimize import linear_sum_assignment

    tree = linkage(vectors, "average", metric="cosine")
    found = []
    for wanted in (len(different), len(different) + 1):
        groups = fcluster(tree, wanted, "maxclust") - 1
        count = int(groups.max()) + 1
        if count < len(different):
            continue
        means = np.stack([vectors[groups == g].mean(0) for g in range(count)])
        ways: Iterable[Sequence[int]] = permutations(range(count), len(different))
        if perm(count, len(different)) > MOST_WAYS:
            common = np.zeros((len(different), count))
            for owner, group in zip(owners, groups, strict=True):
                common[different.index(labels[owner]), group] += 1
            ways = [linear_sum_assignment(-common)[1]]
        for way in ways:
            rows = means[list(way)]
            for i, label in enumerate(different):
                if anchors and label in anchors:
                    rows[i] = anchors[label]
            found.append(unit_norm(rows))
    return found


def _times(owners: np.ndarray, turns: int, places: np.ndarray) -> list[tuple[float, float]]:
    """Return times from the windows of each turn; two turns inside one stretch of speech meet half-way."""
    edges = []
    for t in range(turns):
        mine = places[owners == t]
        edges.append([float(mine[0, 0]), float(mine[-1, 1])])
    for left, right in pairwise(edges):
        if left[1] > right[0]:
            left[1] = right[0] = (left[1] + right[0]) / 2
    return [(a, max(a, b)) for a, b in edges]


def _voices(
    labels: Sequence[str], owners: np.ndarray, places: np.ndarray, vectors: np.ndarray
) -> dict[str, tuple[np.ndarray, float]]:
    found = {}
    for label in dict.fromkeys(labels):
        mine = np.array([labels[o] == label for o in owners], bool)
        if len(mine) and mine.any():
            found[label] = (unit_norm(vectors[mine].mean(0)), _union(places[mine]))
    return found


def _union(spans: np.ndarray) -> float:
    """Return the seconds that windows cover."""
    total, reached = 0.0, -np.inf
    for a, b in sorted(map(tuple, spans)):
        total += max(0.0, b - max(a, reached))
        reached = max(reached, b)
    return total
