"""Text in silence: tokens of hypothesis turns during which no one speaks, in percent of the reference tokens.

A turn is in silence if no reference turn is within 0.5 s of it; in a session whose reference has no words every turn
is. These tokens are insertions of CER and cpCER too: here they are counted apart. Undefined if a speaker's turn with
words lacks times while the reference has words.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from pipeline.evaluation.records import SegLstRow, times_of

COLLAR = 0.5  # seconds: edges of reference turns are rough


def score(
    reference: Sequence[SegLstRow], hypothesis: Sequence[SegLstRow], tokens: Callable[[str], list[str]]
) -> tuple[float, float] | None:
    """Return tokens in silence and reference tokens."""
    spoken = [row for row in reference if tokens(row.text)]
    length = sum(len(tokens(row.text)) for row in spoken)
    said = [(row, len(words)) for row in hypothesis if (words := tokens(row.text))]
    if not spoken:
        return sum(count for _, count in said), length
    said = [(row, count) for row, count in said if row.timed or row.speaker is not None]
    if not all(row.timed for row in (*spoken, *(row for row, _ in said))):
        return None
    return sum(count for row, count in said if not any(_near(row, other) for other in spoken)), length


def _near(a: SegLstRow, b: SegLstRow) -> bool:
    """Whether two turns with times meet, or almost."""
    (start, end), (other_start, other_end) = times_of(a, "silence"), times_of(b, "silence")
    return start <= other_end + COLLAR and other_start <= end + COLLAR
