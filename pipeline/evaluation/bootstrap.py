"""Confidence intervals by resampling recordings, and paired comparison of two systems.

Clips of one recording share speakers, room and topic, so recordings are drawn with replacement, not clips (Bisani and
Ney, "Bootstrap estimates for confidence intervals in ASR performance evaluation", 2004). Each replicate is a sum of
errors over a sum of reference tokens. Seeded: the same scores give the same interval.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pipeline.evaluation.edit_distance import Edits
from pipeline.evaluation.session_scores import SessionScore
from shards.errors import ScoreError

if TYPE_CHECKING:
    import numpy as np

FIGURES = ("cer", "cpcer", "sacer")


@dataclass(frozen=True)
class Comparison:
    """System B against system A on the same sessions, in percentage points (negative: B is better)."""

    figure: str
    difference: float
    low: float
    high: float
    p: float  # two-sided: twice the smaller share of replicates on one side of zero, at most 1
    groups: int


def intervals(scores: Sequence[SessionScore], replicates: int = 1000, seed: int = 1, level: float = 0.95) -> Any:
    """Percentile intervals in percent, ``{figure: [low, high]}``, Δ's included; ``None`` below two recordings."""
    import numpy as np

    groups = sorted({s.group for s in scores})
    if len(groups) < 2:
        return None
    draws = _draws(len(groups), replicates, seed)
    found: dict[str, Any] = {}
    for figure in FIGURES:
        edits = [getattr(s, figure) for s in scores]
        if not any(e is None for e in edits):
            found[figure] = _rates(_sums(scores, edits, groups), draws)
    for delta, figure in (("delta_cp", "cpcer"), ("delta_sa", "sacer")):
        if figure in found:
            found[delta] = found[figure] - found["cer"]
    tail = 100 * (1 - level) / 2
    out = {}
    for figure, rates in found.items():
        if np.isfinite(rates).any():
            low, high = np.nanpercentile(rates, [tail, 100 - tail])
            out[figure] = [float(low), float(high)]
    return out or None


def compare(
    a: Sequence[SessionScore], b: Sequence[SessionScore], figure: str = "cpcer", replicates: int = 10_000, seed: int = 1
) -> Comparison:
    """Paired bootstrap: both systems on the same drawn recordings.

    Raises:
        ScoreError: the systems were scored on other sessions or references, or there are fewer than two recordings.
    """
    import numpy as np

    if {s.id: s.cer.reference for s in a} != {s.id: s.cer.reference for s in b}:
        raise ScoreError("the two systems were not scored on the same sessions with the same reference and normaliser")
    groups = sorted({s.group for s in a})
    if len(groups) < 2:
        raise ScoreError("a paired comparison needs at least two recordings")
    draws = _draws(len(groups), replicates, seed)
    rates, sums = [], []
    for scores in (a, b):
        edits = [getattr(s, figure) for s in scores]
        if any(e is None for e in edits):
            raise ScoreError(f"{figure} is not defined for every session")
        sums.append(sum(edits, Edits()).percent)
        rates.append(_rates(_sums(scores, edits, groups), draws))
    apart = rates[1] - rates[0]
    apart = apart[np.isfinite(apart)]
    if not len(apart) or sums[0] is None or sums[1] is None:
        raise ScoreError(f"{figure} has no reference tokens")
    low, high = np.percentile(apart, [2.5, 97.5])
    p = 2 * min(float((apart <= 0).mean()), float((apart >= 0).mean()))
    return Comparison(figure, sums[1] - sums[0], float(low), float(high), min(1.0, p), len(groups))


def _draws(groups: int, replicates: int, seed: int) -> np.ndarray:
    """(replicates, groups) int64: how often each recording was drawn."""
    import numpy as np

    return np.random.default_rng(seed).multinomial(groups, [1 / groups] * groups, size=replicates)


def _sums(scores: Sequence[SessionScore], edits: Sequence[Edits], groups: Sequence[str]) -> np.ndarray:
    """(groups, 2) int64: errors and reference tokens of each recording."""
    import numpy as np

    place = {g: i for i, g in enumerate(groups)}
    sums = np.zeros((len(groups), 2), dtype=np.int64)
    for s, e in zip(scores, edits, strict=True):
        sums[place[s.group]] += (e.errors, e.reference)
    return sums


def _rates(sums: np.ndarray, draws: np.ndarray) -> np.ndarray:
    """(replicates,) percent; NaN where a replicate has no reference tokens."""
    import numpy as np

    errors, reference = (draws @ sums).T
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(reference > 0, 100 * errors / reference, np.nan)
