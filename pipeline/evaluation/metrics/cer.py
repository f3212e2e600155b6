"""CER: one stream of reference tokens against one of hypothesis tokens, speakers ignored.

Both are in order of start time, or as emitted if a row has no times.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from pipeline.evaluation.edit_distance import Edits, count, encode
from pipeline.evaluation.records import SegLstRow
from pipeline.evaluation.tokens import TokenisedRows


def cer_edits(reference: TokenisedRows, hypothesis: TokenisedRows) -> Edits:
    """Count the edits between the two streams."""
    return count(*encode([t for _, ts in reference for t in ts], [t for _, ts in hypothesis for t in ts]))


def score(
    reference: Sequence[SegLstRow], hypothesis: Sequence[SegLstRow], tokens: Callable[[str], list[str]]
) -> tuple[float, float]:
    """Return errors and reference tokens."""
    edits = cer_edits([(r, tokens(r.text)) for r in reference], [(r, tokens(r.text)) for r in hypothesis])
    return edits.errors, edits.reference
