"""Charts of the report: figures by stage, by extra registered speakers, and of the systems of one test set."""

from __future__ import annotations

from collections.abc import Sequence

from pipeline.evaluation.charts import bar_chart, line_chart
from pipeline.evaluation.figure_names import named
from pipeline.evaluation.report_head import CHOSEN, chosen_rows
from pipeline.evaluation.result_tables import MODE_NAMES, ends, is_bin, lineage, system
from pipeline.evaluation.scores import ScoreRow

Series = dict[str, tuple[list[float], list[float]]]
MOST_BARS = 16


def lead_chart(rows: Sequence[ScoreRow]) -> tuple[str, str] | None:
    """Return (caption, SVG) of the chart that a reader sees first: the headline's rates of the first test set.

    After each stage if one training was scored after several, else a bar for each system.
    """
    if not rows:
        return None
    test_set = rows[0]["test_set"]
    here = [r for r in rows if r["test_set"] == test_set and not is_bin(r, rows)]
    kinds = [r["normaliser"] for r in here]
    found = chosen_rows(here)
    series: Series = {}
    several = len({lineage(r["run"]) for r in here}) > 1
    for c in found:
        of_mode = [r for r in here if r["mode"] == c.mode]
        for label, points in stage_series(of_mode, c.figure).items():
            run = label.rpartition(", ")[0] if several else ""
            series[", ".join(filter(None, [named(c.title, kinds), MODE_NAMES[c.mode], run]))] = points
    if series:
        return f"{test_set}: errors after each stage, %", line_chart(series, "stage", "%", height=3.4)
    one = len({system(r) for r in here}) == 1
    bars = [
        (
            f"{named(c.title, kinds)}, {MODE_NAMES[c.mode] if one else system(r)}",
            r[c.figure],
            (r.get("ci") or {}).get(c.figure),
        )
        for c in found
        for r in here
        if r["mode"] == c.mode and r[c.figure] is not None
    ]
    return (f"{test_set}: errors, %, with 95 % intervals", bar_chart(bars[:MOST_BARS], "%")) if bars else None


def curves(rows: Sequence[ScoreRow]) -> list[tuple[str, str]]:
    """Return (caption, SVG): figures by stage and by N_ov, for each test set with more than one point."""
    out = []
    labels = list(dict.fromkeys(label for figure in ("cpcer", "cer") for label in stage_series(rows, figure)))
    for test_set in dict.fromkeys(r["test_set"] for r in rows):
        here = [r for r in rows if r["test_set"] == test_set]
        kinds = [r["normaliser"] for r in here]
        for figure, title, _ in CHOSEN:
            name = named(title, kinds)
            series = stage_series(here, figure)
            if series:
                chart = line_chart(series, "stage", f"{name} (%)", colour_of=labels)
                out.append((f"{test_set}: {name} after each stage, %", chart))
        bins = sorted((r for r in here if is_bin(r, rows)), key=lambda r: ends(r["n_ov"]))
        ticks = list(dict.fromkeys(r["n_ov"] for r in bins))
        swept: Series = {}
        for r in bins:
            if r["sacer"] is not None:
                x, y = swept.setdefault(system(r), ([], []))
                x.append(ticks.index(r["n_ov"]))
                y.append(r["sacer"])
        if swept:
            chart = line_chart(swept, "extra registered speakers", named("saCER (%)", kinds), ticks)
            out.append((named(f"{test_set}: saCER by extra registered speakers, %", kinds), chart))
    return out


def stage_series(rows: Sequence[ScoreRow], figure: str) -> Series:
    """Return mode → stages and figures; labelled with the training if there are several."""
    several = len({lineage(r["run"]) for r in rows}) > 1
    series: Series = {}
    for r in sorted(rows, key=lambda r: r["stage"] or 0):
        if r["stage"] is not None and r[figure] is not None and not is_bin(r, rows):
            label = (f"{lineage(r['run'])}, " if several else "") + MODE_NAMES[r["mode"]]
            name, same = label, 1
            while r["stage"] in series.get(name, ([], []))[0]:  # two runs may have one name: each gets its line
                same += 1
                name = f"{label} ({same})"
            x, y = series.setdefault(name, ([], []))
            x.append(r["stage"])
            y.append(r[figure])
    return {k: v for k, v in series.items() if len(set(v[0])) > 1}
