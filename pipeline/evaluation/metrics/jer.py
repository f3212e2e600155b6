"""JER: Jaccard error rate of DIHARD, by pyannote.metrics. No collar, overlapped speech is scored.

Hypothesis speakers are assigned to reference speakers by common time; a reference speaker's error is one minus the time
of both over the time of either. Every reference speaker counts equally. Undefined if a turn lacks times.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from pipeline.evaluation.records import SegLstRow
from pipeline.evaluation.speaker_metrics import annotation, evaluated, rows_have_times

OF_ENDS = True


def score(
    reference: Sequence[SegLstRow], hypothesis: Sequence[SegLstRow], tokens: Callable[[str], list[str]]
) -> tuple[float, float] | None:
    """Return the sum of the speakers' errors and the number of reference speakers."""
    from pyannote.metrics.diarization import JaccardErrorRate

    if not rows_have_times(reference, hypothesis):
        return None
    rate = JaccardErrorRate(collar=0.0, skip_overlap=False)
    uem = evaluated(reference, hypothesis)
    parts = rate(annotation(reference), annotation(hypothesis), uem=uem, detailed=True)
    return parts["speaker error"], parts["speaker count"]
