"""saCER: speaker-attributed error rate, each speaker's joined turns compared by name.

A name that is not in the reference is all insertions, a reference name that was not used all deletions.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from pipeline.evaluation.edit_distance import Edits, count, encode
from pipeline.evaluation.records import SegLstRow
from pipeline.evaluation.tokens import Streams, named_streams, streams, unattributed_edits


def sa_edits(reference: Streams, hypothesis: Streams) -> Edits:
    """Count the edits by name."""
    edits = unattributed_edits(reference, hypothesis)
    ref, hyp = named_streams(reference), named_streams(hypothesis)
    for name in dict.fromkeys([*ref, *hyp]):
        edits += count(*encode(ref.get(name, []), hyp.get(name, [])))
    return edits


def score(
    reference: Sequence[SegLstRow], hypothesis: Sequence[SegLstRow], tokens: Callable[[str], list[str]]
) -> tuple[float, float]:
    """Return errors and reference tokens."""
    edits = sa_edits(*(streams((r, tokens(r.text)) for r in rows) for rows in (reference, hypothesis)))
    return edits.errors, edits.reference
