"""Boundary error: how far starts and ends of turns are from the reference's, in seconds.

Turns of both sides are matched one to one so that the sum of their overlaps over their unions is largest, speakers
ignored; only turns that overlap are matched. The figure is the mean absolute difference over the starts and ends of all
matched turns. Turns without a match do not count here: they are errors of DER. Undefined if a speaker's turn lacks
times.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from pipeline.evaluation.records import SegLstRow

UNIT = "s"
OF_ENDS = True


def score(
    reference: Sequence[SegLstRow], hypothesis: Sequence[SegLstRow], tokens: Callable[[str], list[str]]
) -> tuple[float, float] | None:
    """Return the sum of the differences in seconds and the number of boundaries, two per matched turn."""
    import numpy as np
    from scipy.optimize import linear_sum_assignment

    sides = []
    for rows in (reference, hypothesis):
        if any(row.text.strip() and row.speaker is not None and not row.timed for row in rows):
            return None
        sides.append(np.array([(row.start, row.end) for row in rows if row.timed], dtype=float).reshape(-1, 2))
    ref, hyp = sides
    starts = np.maximum(ref[:, None, 0], hyp[None, :, 0])
    ends = np.minimum(ref[:, None, 1], hyp[None, :, 1])
    common = np.clip(ends - starts, 0, None)
    lengths = ref[:, 1] - ref[:, 0], hyp[:, 1] - hyp[:, 0]
    union = lengths[0][:, None] + lengths[1][None, :] - common
    share = np.divide(common, union, out=np.zeros_like(common), where=union > 0)
    i, j = linear_sum_assignment(share, maximize=True)
    i, j = i[share[i, j] > 0], j[share[i, j] > 0]
    return float(np.abs(ref[i] - hyp[j]).sum()), 2.0 * len(i)
