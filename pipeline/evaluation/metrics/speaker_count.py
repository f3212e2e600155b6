"""Speaker-count accuracy: share of sessions with the right number of speakers. Higher is better."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from pipeline.evaluation.records import SegLstRow
from pipeline.evaluation.speaker_metrics import voices


def score(
    reference: Sequence[SegLstRow], hypothesis: Sequence[SegLstRow], tokens: Callable[[str], list[str]]
) -> tuple[float, float]:
    """Return 1 if the number is right, of 1."""
    return float(len(voices(reference)) == len(voices(hypothesis))), 1.0
