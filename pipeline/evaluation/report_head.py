"""Headline of the report: the three numbers that a reader wants first."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from pipeline.evaluation.figure_names import named
from pipeline.evaluation.result_tables import MODE_NAMES, is_bin, latest, system
from pipeline.evaluation.scores import ScoreRow

# Figure, its name, and modes in order of preference: the hardest task that the figure describes.
CHOSEN = (
    ("cer", "CER", ("no", "match", "over", "asr")),
    ("cpcer", "cpCER", ("no", "match", "over")),
    ("sacer", "saCER", ("match", "over", "no")),
)
MOST_LINES = 5


@dataclass(frozen=True)
class Chosen:
    """A rate and the mode in which it is a headline."""

    figure: str
    title: str
    mode: str


def chosen_rows(rows: Sequence[ScoreRow]) -> list[Chosen]:
    """Return the rates that rows of one test set have, each in its preferred mode."""
    out = []
    for figure, title, modes in CHOSEN:
        there = {r["mode"] for r in rows if r[figure] is not None}
        if mode := next((m for m in modes if m in there), None):
            out.append(Chosen(figure, title, mode))
    return out


def tiles(rows: Sequence[ScoreRow]) -> list[dict[str, Any]]:
    """Return three tiles for the first test set, after the last stage; of several systems the best one's.

    Below each, the other systems, else the other test sets. Undefined rates make room for Δ's and for the tokens.
    """
    if not rows:
        return []
    final = [r for r in latest(rows) if not is_bin(r, rows)]
    here = [r for r in final if r["test_set"] == rows[0]["test_set"]]
    found = [_tile(c, here, final) for c in chosen_rows(here)]
    if len(found) < 3:
        found += _further(here)
    return found[:3]


def _tile(c: Chosen, here: Sequence[ScoreRow], final: Sequence[ScoreRow]) -> dict[str, Any]:
    of_mode = [r for r in here if r["mode"] == c.mode and r[c.figure] is not None]
    best = min(of_mode, key=lambda r: r[c.figure])
    if len(of_mode) > 1:
        others = [(system(r), r) for r in sorted(of_mode, key=lambda r: r[c.figure])]
    else:
        others = [
            (r["test_set"], r)
            for r in final
            if (r["mode"], system(r)) == (c.mode, system(best)) and r["test_set"] != best["test_set"]
        ]
    ends = (best.get("ci") or {}).get(c.figure)
    parts = [best["test_set"], MODE_NAMES[c.mode], *([system(best)] if len(of_mode) > 1 else [])]
    return {
        "name": named(c.title, [best["normaliser"]]),
        "value": f"{best[c.figure]:.1f}",
        "unit": "%",
        "note": " · ".join(parts),
        "interval": f"95 %: {ends[0]:.1f} – {ends[1]:.1f}" if ends else "",
        "lines": [(name, f"{r[c.figure]:.1f}") for name, r in others[:MOST_LINES] if r[c.figure] is not None],
    }


def _further(rows: Sequence[ScoreRow]) -> list[dict[str, Any]]:
    """Return tiles of what is not a rate."""
    out = []
    best = min(rows, key=lambda r: (r["cpcer"] is None, r["cpcer"] or 0.0))
    if best["delta_cp"] is not None:
        out.append(
            {
                "name": "Δcp",
                "value": f"{best['delta_cp']:+.1f}".replace("-", "−"),
                "unit": "points",
                "note": system(best),
            }
        )
    note = f"{best['test_set']}, {best['split']}" if best["split"] != "?" else best["test_set"]
    out.append({"name": "ref. tokens", "value": f"{best['n_ref']:,}", "unit": "", "note": note})
    out.append({"name": "normaliser", "value": best["normaliser"], "unit": "", "note": "of both sides"})
    return out
