"""tcpCER: time-constrained cpCER by meeteval, with a collar of 5 s as in CHiME-7 and CHiME-8.

A token of the hypothesis may match one of the reference only if their times, widened by the collar, meet. The tokens of
a turn share its time by their numbers of characters; in the hypothesis each stands in the middle of its share. With a
normaliser that counts words this is tcpWER. Undefined if a speaker's turn with words lacks times.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from pipeline.evaluation.records import SegLstRow

COLLAR = 5.0  # seconds


def score(
    reference: Sequence[SegLstRow], hypothesis: Sequence[SegLstRow], tokens: Callable[[str], list[str]]
) -> tuple[float, float] | None:
    """Return errors and reference tokens; text without a speaker is all errors, as in cpCER."""
    sides = [[(row, words) for row in rows if (words := tokens(row.text))] for rows in (reference, hypothesis)]
    if not all(row.timed for side in sides for row, _ in side if row.speaker is not None):
        return None
    ref, hyp = sides
    errors = _named_errors(ref, hyp) + sum(len(words) for side in sides for row, words in side if row.speaker is None)
    return errors, sum(len(words) for _, words in ref)


def _named_errors(
    reference: Sequence[tuple[SegLstRow, list[str]]], hypothesis: Sequence[tuple[SegLstRow, list[str]]]
) -> int:
    from meeteval.io import SegLST
    from meeteval.wer.wer.time_constrained import time_constrained_minimum_permutation_word_error_rate

    sides = [
        SegLST(
            [
                {
                    "session_id": "s",
                    "speaker": row.speaker,
                    "start_time": row.start,
                    "end_time": row.end,
                    "words": " ".join(words),
                }
                for row, words in rows
                if row.speaker is not None
            ]
        )
        for rows in (reference, hypothesis)
    ]
    if not all(len(side) for side in sides):
        return sum(len(words) for rows in (reference, hypothesis) for row, words in rows if row.speaker is not None)
    return int(time_constrained_minimum_permutation_word_error_rate(*sides, collar=COLLAR).errors)
