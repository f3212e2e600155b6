"""Paired comparison of every two rows of one test set."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import combinations
from typing import Any

from pipeline.evaluation.bootstrap import FIGURES, Resampled, compare_resampled, few_recordings, resample
from pipeline.evaluation.breakdown import Measured
from pipeline.evaluation.figure_names import named
from pipeline.evaluation.permutation import quick_sign_flip
from pipeline.evaluation.result_tables import Table
from pipeline.evaluation.session_scores import total

MOST = 24  # rows of one test set; pairs grow with the square
TITLES = dict(zip(FIGURES, ("CER", "cpCER", "saCER"), strict=True))
HEAD = (
    "test set",
    "A",
    "B",
    "rate",
    "A, %",
    "B, %",
    "B − A",
    "low",
    "high",
    "p, bootstrap",
    "p, permutation",
    "recordings",
)


def pairs(measured: Sequence[Measured], replicates: int = 10_000) -> Table | None:
    """Compare every two rows that were scored on the same sessions with the same references and normaliser.

    A test set with more than :data:`MOST` rows is compared for the first of them. Rates that only one row has are
    omitted. ``None`` if there is no such pair.
    """
    lines: list[tuple[Any, ...]] = []
    fewest = 0
    for test_set in dict.fromkeys(m.row["test_set"] for m in measured):
        here = [m for m in measured if m.row["test_set"] == test_set][:MOST]
        names = distinct_labels(here)
        drawn = [_drawn(m, replicates) for m in here]
        for i, j in combinations(range(len(here)), 2):
            if here[i].row["normaliser"] != here[j].row["normaliser"]:
                continue
            for figure, a, b in _common(drawn[i], drawn[j]):
                c = compare_resampled(a, b, figure, quick_sign_flip)
                title = named(TITLES[figure], [here[i].row["normaliser"]])
                tests = (c.difference, c.low, c.high, c.p_bootstrap, c.p, c.groups)
                lines.append((test_set, names[i], names[j], title, a.percent, b.percent, *tests))
                fewest = min(fewest or c.groups, c.groups)
    if not lines:
        return None
    note = "95 % interval and p by resampling recordings, the same for both rows. p is not corrected for many pairs."
    few = few_recordings(fewest)
    signs = dict.fromkeys(("B − A", "low", "high"), "+.2f") | {"p, bootstrap": ".3g", "p, permutation": ".3g"}
    more = f" Note: {few}." if few else ""
    return Table("pairs", "Every two rows compared", HEAD, tuple(lines), note + more, formats=signs, text_columns=4)


def distinct_labels(rows: Sequence[Measured]) -> list[str]:
    """Return the labels of rows; of rows with one label, the later ones are numbered."""
    seen = Counter[str]()
    out = []
    for m in rows:
        seen[m.label] += 1
        out.append(m.label if seen[m.label] == 1 else f"{m.label} ({seen[m.label]})")
    return out


def _drawn(m: Measured, replicates: int) -> dict[str, Resampled]:
    """Return the draws of each figure that the row has; none for fewer than two recordings or without reference."""
    if len({s.group for s in m.scores}) < 2 or not total(m.scores).cer.reference:
        return {}
    defined = [f for f in FIGURES if all(getattr(s, f) is not None for s in m.scores)]
    return {f: resample(m.scores, f, replicates) for f in defined}


def _common(a: dict[str, Resampled], b: dict[str, Resampled]) -> Iterator[tuple[str, Resampled, Resampled]]:
    """Yield the figures that two rows have on the same sessions."""
    for figure in (f for f in FIGURES if f in a and f in b):
        if a[figure].references == b[figure].references:
            yield figure, a[figure], b[figure]
