"""Gender accuracy: share of speakers whose gender is right. Higher is better.

Hypothesis speakers are assigned to reference speakers as in cpCER. Counted are reference speakers of known gender who
have been assigned one; a hypothesis speaker without a gender is wrong. Reference speakers who were not found are errors
of the speaker count. The gender of a hypothesis speaker is that of most of its turns, or of its label (``Male 1``).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence

from pipeline.dialogue.lines import gender_of_label
from pipeline.evaluation.metrics.cpcer import cp_edits
from pipeline.evaluation.records import SegLstRow
from pipeline.evaluation.tokens import streams


def score(
    reference: Sequence[SegLstRow], hypothesis: Sequence[SegLstRow], tokens: Callable[[str], list[str]]
) -> tuple[float, float]:
    """Return the number of speakers with the right gender and of those counted."""
    expected, stated = _genders(reference), _genders(hypothesis)
    sides = (streams((row, words) for row in rows if (words := tokens(row.text))) for rows in (reference, hypothesis))
    _, pairs = cp_edits(*sides)
    found = [stated.get(h) == expected[r] for r, h in pairs if r in expected and h is not None]
    return sum(found), len(found)


def _genders(rows: Sequence[SegLstRow]) -> dict[str, str]:
    """Return speaker → gender, without the unknown ones."""
    counts: dict[str, Counter[str]] = {}
    for row in rows:
        gender = row.gender or gender_of_label(row.speaker or "")
        if row.speaker is not None and gender:
            counts.setdefault(row.speaker, Counter())[gender] += 1
    return {speaker: found.most_common(1)[0][0] for speaker, found in counts.items()}
