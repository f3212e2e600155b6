"""cpCER: concatenated minimum-permutation error rate.

The turns of each speaker are joined in time order; hypothesis speakers are assigned to reference speakers with the
fewest errors (Hungarian method). A surplus speaker is all insertions, a missing one all deletions.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from pipeline.evaluation.edit_distance import Edits, count, distance, encode
from pipeline.evaluation.records import SegLstRow
from pipeline.evaluation.tokens import Streams, named_streams, streams, unattributed_edits

SpeakerPair = tuple[str | None, str | None]  # reference speaker, hypothesis speaker


def cp_edits(reference: Streams, hypothesis: Streams) -> tuple[Edits, tuple[SpeakerPair, ...]]:
    """Count the edits, and return the assignment.

    Cost: one distance per pair of speakers, then O(n³) for n speakers: any number of speakers works.
    """
    ref, hyp = named_streams(reference), named_streams(hypothesis)
    coded = encode(*ref.values(), *hyp.values())
    a = dict(zip(ref, coded[: len(ref)], strict=True))
    b = dict(zip(hyp, coded[len(ref) :], strict=True))
    pairs = _assign(a, b)
    edits = sum(
        (count(a[r] if r is not None else "", b[h] if h is not None else "") for r, h in pairs),
        unattributed_edits(reference, hypothesis),
    )
    return edits, pairs


def score(
    reference: Sequence[SegLstRow], hypothesis: Sequence[SegLstRow], tokens: Callable[[str], list[str]]
) -> tuple[float, float]:
    """Return errors and reference tokens."""
    sides = (streams((r, tokens(r.text)) for r in rows) for rows in (reference, hypothesis))
    edits, _ = cp_edits(*sides)
    return edits.errors, edits.reference


def _assign(reference: dict[str, str], hypothesis: dict[str, str]) -> tuple[SpeakerPair, ...]:
    """Return reference speakers in order with their hypothesis speaker, then the unassigned hypothesis speakers."""
    if not reference or not hypothesis:
        return (*((r, None) for r in reference), *((None, h) for h in hypothesis))
    import numpy as np
    from scipy.optimize import linear_sum_assignment

    size = max(len(reference), len(hypothesis))
    refs = [*reference.values(), *[""] * (size - len(reference))]
    hyps = [*hypothesis.values(), *[""] * (size - len(hypothesis))]
    costs = np.array([[distance(r, h) for h in hyps] for r in refs], dtype=np.int64)
    _, columns = linear_sum_assignment(costs)
    ref_names = [*reference, *[None] * (size - len(reference))]
    hyp_names = [*hypothesis, *[None] * (size - len(hypothesis))]
    return tuple((r, hyp_names[c]) for r, c in zip(ref_names, columns, strict=True))
