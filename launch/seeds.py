"""Median and spread of the figures of several trainings: `python launch/seeds.py demo demo/seed2 demo/seed3`.

Reads the scores.json of each folder. Also the targets of `make learn`, met or not.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from chain import last_rows
from pipeline.evaluation.scores import markdown
from shards.commands.parser import Parser

FIGURES = {"asr": ("cer",), "no": ("cer", "cpcer"), "match": ("cer", "cpcer", "sacer")}
FIGURES["over"] = FIGURES["match"]
SHOWN = {"cer": "CER", "cpcer": "cpCER", "sacer": "saCER"}
TARGETS = (("no", "cpcer", 15.0), ("match", "sacer", 30.0), ("over", "sacer", 35.0))  # percent, at most
CONTROL_RATIO, CONTROL_CER = 2.0, 2.0  # permuted vectors: saCER at least so many times, CER moved by fewer points


def targets(rows: Sequence[Mapping[str, Any]], tests: Sequence[str]) -> str:
    """The targets beside the last stage's figures, as a table."""
    from pipeline.decode.test_set import PERMUTED

    last = last_rows(rows)
    lines = [["test set", "figure", "reached", "target", "met"]]
    for test in tests:
        for mode, figure, most in TARGETS:
            value = last[test, mode][figure]
            lines.append([test, f"{mode} {SHOWN[figure]}", f"{value:.1f}", f"≤ {most:g}", _said(value <= most)])
        for mode in ("match", "over"):
            true, control = last[test, mode], last[test + PERMUTED, mode]
            enough = control["sacer"] >= CONTROL_RATIO * true["sacer"]
            ratio = f"{control['sacer'] / true['sacer']:.2f}" if true["sacer"] else "–"
            moved = abs(control["cer"] - true["cer"])
            name = f"{mode} permuted:"
            lines.append([test, f"{name} saCER, times the true", ratio, f"≥ {CONTROL_RATIO:g}", _said(enough)])
            lines.append([test, f"{name} CER moved, points", f"{moved:.1f}", f"< {CONTROL_CER:g}", _said(moved < 2)])
    return markdown(lines, right_from=2)


def _said(met: bool) -> str:
    return "met" if met else "not met"


def over_seeds(tables: Sequence[Sequence[Mapping[str, Any]]]) -> list[dict[str, Any]]:
    """One row a (stage, test set, mode) that all tables have: of each figure its values in the tables' order, its
    median, and lowest and highest value. Rates in percent."""
    by_key = [{(r["stage"], r["test_set"], r["mode"]): r for r in rows} for rows in tables]
    merged = []
    for stage, test, mode in by_key[0]:
        rows = [found.get((stage, test, mode)) for found in by_key]
        if any(r is None for r in rows):
            continue
        row: dict[str, Any] = {"stage": stage, "test_set": test, "mode": mode, "seeds": len(tables)}
        for figure in FIGURES[mode]:
            values = [float(r[figure]) for r in rows if r is not None]
            row[figure] = {"median": median(values), "low": min(values), "high": max(values), "values": values}
        merged.append(row)
    return merged


def medians(folders: Sequence[Path], out: Path | None = None, tests: Sequence[str] = ()) -> str:
    """The table of several folders, and the targets at the medians of `tests`; with `out` the rows as JSON."""
    merged = over_seeds([json.loads((folder / "scores.json").read_text()) for folder in folders])
    lines = [["stage", "test set", "mode", *SHOWN.values()]]
    for row in merged:
        cells = [_cell(row.get(figure)) for figure in SHOWN]
        lines.append([str(row["stage"]), row["test_set"], row["mode"], *cells])
    if out is not None:
        out.write_text(json.dumps(merged, ensure_ascii=False, indent=1) + "\n")
    text = markdown(lines, right_from=3) + f"\nPercent: median [lowest, highest] of {len(folders)} seeds.\n"
    if tests:
        middle = [row | {f: row[f]["median"] for f in SHOWN if f in row} for row in merged]
        text += "\nAt the medians:\n" + targets(middle, tests)
    return text


def _cell(figure: Mapping[str, Any] | None) -> str:
    return f"{figure['median']:.1f} [{figure['low']:.1f}, {figure['high']:.1f}]" if figure else "–"


def main() -> None:
    """Print the table."""
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", type=Path, nargs="+", metavar="FOLDER", help="each with a scores.json")
    parser.add_argument("--json", type=Path, help="write the rows there as well")
    args = parser.parse_args()
    if unscored := [str(folder) for folder in args.folders if not (folder / "scores.json").is_file()]:
        parser.error(f"no scores.json in {', '.join(unscored)}: folders of finished `make demo` or `make learn` runs")
    print(medians(args.folders, args.json))


if __name__ == "__main__":
    main()
