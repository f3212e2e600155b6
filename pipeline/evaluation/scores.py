"""Rows of scores: from decoded clips to ``scores.json`` and a table.

A row is one run and stage on one test set in one registration mode. It carries the split, the unit (clip or session)
and the normaliser with its version, because a figure cannot be compared without them. Rates are in percent.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.evaluation.bootstrap import intervals
from pipeline.evaluation.decoded_rows import decoded_files, decoded_session, n_ov_range, read_decoded, read_description
from pipeline.evaluation.normalize import Profile, profile
from pipeline.evaluation.session_scores import SessionScore, score_session, total

ScoreRow = dict[str, Any]

KEYS = (
    "run", "stage", "test_set", "split", "unit", "mode", "n_ov",
    "cer", "cpcer", "sacer", "delta_cp", "delta_sa", "n_ref", "ci", "normaliser",
)  # fmt: skip
DEFAULT_PROFILE = "paper-zh"


@dataclass(frozen=True)
class RowLabel:
    """What a row says besides figures."""

    run: str
    stage: int | None
    test_set: str
    split: str
    mode: str
    unit: str = "clip"
    n_ov: str | None = None


def make_row(scores: Sequence[SessionScore], label: RowLabel, chosen: Profile, replicates: int = 1000) -> ScoreRow:
    """One row of the table; rates in percent, ``None`` where undefined."""
    sums = total(scores)
    return {
        "run": label.run,
        "stage": label.stage,
        "test_set": label.test_set,
        "split": label.split,
        "unit": label.unit,
        "mode": label.mode,
        "n_ov": label.n_ov,
        "cer": sums.cer.percent,
        "cpcer": sums.cpcer.percent if sums.cpcer else None,
        "sacer": sums.sacer.percent if sums.sacer else None,
        "delta_cp": sums.delta_cp,
        "delta_sa": sums.delta_sa,
        "n_ref": sums.cer.reference,
        "ci": intervals(scores, replicates) if replicates else None,
        "normaliser": chosen.id,
    }


def score_rows(rows: Iterable[dict[str, Any]], chosen: Profile) -> list[SessionScore]:
    """Score decoded clips: CER always, cpCER but for ASR, saCER where names were registered."""
    out = []
    for row in rows:
        mode = row["mode"]
        out.append(score_session(decoded_session(row), chosen, mode != "asr", mode in ("match", "over")))
    return out


def score_decoded(
    decoded: Path | str,
    run: str | None = None,
    stage: int | None = None,
    test_set: str | None = None,
    split: str | None = None,
    normaliser: str = DEFAULT_PROFILE,
    replicates: int = 1000,
) -> list[ScoreRow]:
    """A row for every file in a folder written by the decoder; what is not said is taken from there.

    Raises:
        ScoreError: the folder holds nothing decoded, or a file is damaged.
    """
    folder, chosen = Path(decoded), profile(normaliser)
    about = read_description(folder)
    rows = []
    for path in decoded_files(folder):
        clips = read_decoded(path)
        if not clips:
            continue
        mode = clips[0]["mode"]
        label = RowLabel(
            run=run or about.get("run") or folder.name,
            stage=stage if stage is not None else about.get("stage"),
            test_set=test_set or about.get("test_set") or _joined(clips, "corpus"),
            split=split or _joined(clips, "split"),
            mode=mode,
            n_ov=n_ov_range(path, clips) if mode == "over" else None,
        )
        rows.append(make_row(score_rows(clips, chosen), label, chosen, replicates))
    return rows


def _joined(clips: Sequence[dict[str, Any]], field: str) -> str:
    return "+".join(sorted({str(c.get(field) or "?") for c in clips}))


def write_scores(rows: Sequence[ScoreRow], path: Path | str) -> None:
    """Write ``scores.json`` whole or not at all. Undefined figures are null, never NaN."""
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile("w", encoding="utf-8", dir=target.parent, suffix=".tmp", delete=False) as f:
        json.dump([{k: r.get(k) for k in KEYS} for r in rows], f, ensure_ascii=False, indent=1, allow_nan=False)
        f.write("\n")
    Path(f.name).chmod(0o644)
    Path(f.name).replace(target)


def format_table(rows: Sequence[ScoreRow], intervals: bool = False) -> str:
    """The rows as a Markdown table that also reads well in a terminal."""
    head = ["run", "stage", "test set", "split", "unit", "mode", "N_ov", "CER", "cpCER", "saCER", "Δcp", "Δsa", "ref."]
    keys = ["run", "stage", "test_set", "split", "unit", "mode", "n_ov"]
    rates = ["cer", "cpcer", "sacer", "delta_cp", "delta_sa"]
    lines = [head]
    for row in rows:
        figures = [cell(row[k], (row.get("ci") or {}).get(k) if intervals else None) for k in rates]
        lines.append([*(cell(row[k]) for k in keys), *figures, cell(row["n_ref"])])
    profiles = sorted({str(r["normaliser"]) for r in rows})
    note = f"Rates in percent; normaliser {', '.join(profiles)}." if rows else "No scores."
    return markdown(lines, right_from=len(keys)) + f"\n{note}\n"


def cell(value: object, interval: Sequence[float] | None = None) -> str:
    """A value as it stands in a table: two decimals, a dash where there is none."""
    if value is None:
        return "–"
    if not isinstance(value, float):
        return str(value)
    return f"{value:.2f}" + (f" [{interval[0]:.2f}, {interval[1]:.2f}]" if interval else "")


def markdown(lines: Sequence[Sequence[str]], right_from: int = 1) -> str:
    """A Markdown table with aligned columns; the first line is the head."""
    widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]

    def put(line: Sequence[str]) -> str:
        sides = [str.ljust] * right_from + [str.rjust] * (len(line) - right_from)
        return "| " + " | ".join([side(t, w) for side, t, w in zip(sides, line, widths, strict=True)]) + " |"

    rule = "|" + "|".join("-" * (w + 1) + (":" if i >= right_from else "-") for i, w in enumerate(widths)) + "|"
    return "\n".join([put(lines[0]), rule, *map(put, lines[1:])]) + "\n"
