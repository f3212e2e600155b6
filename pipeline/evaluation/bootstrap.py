"""Confidence intervals by resampling recordings, and paired comparison of two systems with a permutation test.

Clips of one recording share speakers, room and topic, so recordings are drawn with replacement, not clips (Bisani and
Ney, "Bootstrap estimates for confidence intervals in ASR performance evaluation", 2004). Each replicate is a sum of
errors over a sum of reference tokens. Seeded: the same scores give the same interval.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from pipeline.evaluation.edit_distance import Edits
from pipeline.evaluation.permutation import sign_flip
from pipeline.evaluation.session_scores import SessionScore
from shards.errors import ScoreError

if TYPE_CHECKING:
    import numpy as np

FIGURES = ("cer", "cpcer", "sacer")
FEW = 10  # recordings below which an interval or a p is said to rest on few


@dataclass(frozen=True)
class Comparison:
    """System B against system A on the same sessions, in percentage points (negative: B is better)."""

    figure: str
    difference: float
    low: float
    high: float
    p: float  # two-sided, of the sign-flip permutation test over recordings
    exact: bool  # whether p is exact, not estimated from random permutations
    groups: int
    p_bootstrap: float  # two-sided, of the paired bootstrap over recordings


@dataclass(frozen=True)
class Resampled:
    """A figure of one system, and its value in every draw of recordings."""

    percent: float | None
    errors: np.ndarray  # (recordings,) int64
    rates: np.ndarray  # (replicates,) percent; NaN without reference tokens
    references: dict[str, int]  # session → reference tokens


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
    """Compare two systems: interval by a paired bootstrap (both on the same drawn recordings), p by sign flips.

    Raises:
        ScoreError: the systems were scored on other sessions or references, or there are fewer than two recordings.
    """
    first, second = (resample(s, figure, replicates, seed) for s in (a, b))
    return compare_resampled(first, second, figure)


def resample(scores: Sequence[SessionScore], figure: str, replicates: int = 10_000, seed: int = 1) -> Resampled:
    """Draw recordings with replacement and return a figure's value in each draw: equal draws for equal arguments.

    Raises:
        ScoreError: the figure is not defined for every session, or there are fewer than two recordings.
    """
    groups = sorted({s.group for s in scores})
    if len(groups) < 2:
        raise ScoreError("a paired comparison needs at least two recordings")
    edits = [getattr(s, figure) for s in scores]
    if any(e is None for e in edits):
        raise ScoreError(f"{figure} is not defined for every session")
    by_group = _sums(scores, edits, groups)
    rates = _rates(by_group, _draws(len(groups), replicates, seed))
    return Resampled(sum(edits, Edits()).percent, by_group[:, 0], rates, {s.id: s.cer.reference for s in scores})


def compare_resampled(
    a: Resampled, b: Resampled, figure: str, flip: Callable[[Sequence[int]], tuple[float, bool]] = sign_flip
) -> Comparison:
    """Compare two systems by their draws, which must be of the same recordings.

    Args:
        flip: the permutation test.

    Raises:
        ScoreError: the systems were scored on other sessions or references, or without reference tokens.
    """
    import numpy as np

    if a.references != b.references:
        raise ScoreError("the two systems were not scored on the same sessions with the same reference and normaliser")
    apart = b.rates - a.rates
    apart = apart[np.isfinite(apart)]
    if not len(apart) or a.percent is None or b.percent is None:
        raise ScoreError(f"{figure} has no reference tokens")
    low, high = np.percentile(apart, [2.5, 97.5])
    beyond = min(int((apart <= 0).sum()), int((apart >= 0).sum()))
    p_bootstrap = min(1.0, 2 * (beyond + 1) / (len(apart) + 1))
    p, exact = flip((b.errors - a.errors).tolist())
    difference = b.percent - a.percent
    return Comparison(figure, difference, float(low), float(high), p, exact, len(a.errors), p_bootstrap)


def paired_difference(
    a: Sequence[tuple[float, float]], b: Sequence[tuple[float, float]], replicates: int = 10_000, seed: int = 1
) -> tuple[float, float, float]:
    """Return b − a in percentage points with the bounds of its 95 % interval, by a paired bootstrap over recordings.

    Args:
        a, b: (errors, length) of each recording, in the same order.

    Raises:
        ScoreError: not the same number of recordings, fewer than two, or a system without any length.
    """
    import numpy as np

    if len(a) != len(b) or len(a) < 2:
        raise ScoreError(f"a paired comparison needs the same recordings, two at least; got {len(a)} and {len(b)}")
    draws = _draws(len(a), replicates, seed)
    sums = [np.array(x, dtype=float) for x in (a, b)]
    if not all(x[:, 1].sum() > 0 for x in sums):
        raise ScoreError("a paired comparison needs a length above 0 in both systems")
    apart = _rates(sums[1], draws) - _rates(sums[0], draws)
    low, high = np.percentile(apart[np.isfinite(apart)], [2.5, 97.5])
    whole = [100 * x[:, 0].sum() / x[:, 1].sum() for x in sums]
    return float(whole[1] - whole[0]), float(low), float(high)


def few_recordings(groups: int) -> str | None:
    """Return a warning if recordings are too few for an interval or a test; a single one has neither."""
    if not 1 < groups < FEW:
        return None
    least = f"{2.0 ** (1 - groups):.3g}"
    return f"only {groups} recordings: intervals over so few are too narrow, and no p can be below {least}"


@lru_cache(maxsize=2)  # rows of one test set draw alike
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
