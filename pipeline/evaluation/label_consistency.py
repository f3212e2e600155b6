"""Do labels hold? How often a person has the same label in one chunk of a recording and in the next with their speech.

In each chunk labels and persons are matched one to one, so that their common speech time is largest. So a model that
gives everybody the same label names one of them only. A person without a label in one of the two chunks counts as a
label that did not hold.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from pipeline.evaluation.records import SegLstRow


@dataclass(frozen=True, slots=True)
class LabelledTurn:
    """A turn of a hypothesis; times in seconds from the start of the recording."""

    label: str
    start: float
    end: float


def held_labels(
    reference: Sequence[SegLstRow], chunks: Sequence[tuple[float, float, Sequence[LabelledTurn]]]
) -> tuple[int, int]:
    """Return how many labels held, of how many pairs of neighbouring chunks of a person.

    Args:
        reference: turns of the recording, with times.
        chunks: start, end, and the turns that were heard in it, in order of time.
    """
    found: dict[str, list[str | None]] = {}
    for start, end, turns in chunks:
        here = []
        for r in reference:
            if r.speaker and r.start is not None and r.end is not None and max(r.start, start) < min(r.end, end):
                here.append((r.speaker, max(r.start, start), min(r.end, end)))
        labels = _matched(here, turns)
        for person in dict.fromkeys(who for who, _, _ in here):
            found.setdefault(person, []).append(labels.get(person))
    pairs = [pair for labels in found.values() for pair in pairwise(labels)]
    return sum(a is not None and a == b for a, b in pairs), len(pairs)


def _matched(spoken: Sequence[tuple[str, float, float]], turns: Sequence[LabelledTurn]) -> dict[str, str]:
    """Person → label in a chunk, one to one, with the most common time; pairs without any are omitted."""
    import numpy as np
    from scipy.optimize import linear_sum_assignment

    persons = list(dict.fromkeys(who for who, _, _ in spoken))
    labels = list(dict.fromkeys(t.label for t in turns))
    common = np.zeros((len(persons), len(labels)))
    for who, a, b in spoken:
        for t in turns:
            common[persons.index(who), labels.index(t.label)] += max(0.0, min(b, t.end) - max(a, t.start))
    rows, columns = linear_sum_assignment(common, maximize=True)
    return {persons[i]: labels[j] for i, j in zip(rows, columns, strict=True) if common[i, j] > 0}
