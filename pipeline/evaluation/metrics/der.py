"""DER: diarisation error rate by pyannote.metrics. No collar, overlapped speech is scored.

For another collar, ``speakerlm-score REF HYP --collar``. Undefined if a turn lacks times.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from pipeline.evaluation.records import SegLstRow, SessionTranscript
from pipeline.evaluation.speaker_metrics import diarisation, has_times

OF_ENDS = True


def score(
    reference: Sequence[SegLstRow], hypothesis: Sequence[SegLstRow], tokens: Callable[[str], list[str]]
) -> tuple[float, float] | None:
    """Return seconds of error and of reference speech."""
    session = SessionTranscript("", tuple(reference), tuple(hypothesis))
    if not has_times(session):
        return None
    found = diarisation(session)
    return found.errors, found.reference
