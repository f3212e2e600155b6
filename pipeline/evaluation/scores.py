"""Score rows: from decoded clips to ``scores.json`` and a table.

A row is one run and stage on one test set in one registration mode. It carries the split, the unit (clip or session)
and the normaliser with its version, because a figure cannot be compared without them. Rates are in percent.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.evaluation.bootstrap import intervals
from pipeline.evaluation.decoded_folder import DecodedFile, DecodedFolder, n_ov_range, read_folder
from pipeline.evaluation.decoded_rows import decoded_session
from pipeline.evaluation.figure_names import named
from pipeline.evaluation.metrics import Coarse, Metric, load_metrics
from pipeline.evaluation.normalize import Profile
from pipeline.evaluation.pairing import wordless
from pipeline.evaluation.records import SessionTranscript
from pipeline.evaluation.script import AUTO, choose_profile
from pipeline.evaluation.session_scores import SessionScore, score_session, total
from shards.storage.local import atomic_file

ScoreRow = dict[str, Any]

logger = logging.getLogger(__name__)

KEYS = (
    "run", "stage", "test_set", "split", "unit", "mode", "n_ov",
    "cer", "cpcer", "sacer", "delta_cp", "delta_sa", "n_ref", "ci", "normaliser",
)  # fmt: skip


@dataclass(frozen=True)
class RowLabel:
    """Labels of a score row."""

    run: str
    stage: int | None
    test_set: str
    split: str
    mode: str
    unit: str = "clip"
    n_ov: str | None = None


@dataclass(frozen=True)
class ScoredFile:
    """Decoded clips of one mode, and the score of each."""

    decoded: DecodedFile
    scores: tuple[SessionScore, ...]


@dataclass(frozen=True)
class ScoredFolder:
    """A decoded folder whose clips are scored."""

    decoded: DecodedFolder
    files: tuple[ScoredFile, ...]
    profile: Profile


def make_row(scores: Sequence[SessionScore], label: RowLabel, chosen: Profile, replicates: int = 1000) -> ScoreRow:
    """Return one row of the table; rates in percent, ``None`` where undefined.

    Metrics that were asked for by name are under ``metrics``, which other rows lack.
    """
    sums = total(scores)
    row = {
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
    if sums.metrics:
        row["metrics"] = {name: rate.figure if rate else None for name, rate in sums.metrics.items()}
    return row


def score_rows(rows: Iterable[dict[str, Any]], chosen: Profile, metrics: Sequence[Metric] = ()) -> list[SessionScore]:
    """Score decoded clips: CER always, cpCER except for ASR, saCER if names were registered; further metrics."""
    return [_score(decoded_session(row), row["mode"], chosen, metrics) for row in rows]


def _score(session: SessionTranscript, mode: str, chosen: Profile, metrics: Sequence[Metric] = ()) -> SessionScore:
    return score_session(session, chosen, mode != "asr", mode in ("match", "over"), metrics)


def score_folder(
    folder: Path, normaliser: str = AUTO, metrics: Sequence[Metric] = (), language: str | None = None
) -> ScoredFolder:
    """Read a folder of the decoder and score its clips; warn of a normaliser that does not fit, and of empty answers.

    Raises:
        ScoreError: the folder holds no decoded clips, or a file is damaged.
    """
    decoded = read_folder(folder)
    texts = (row.text for f in decoded.files for s in f.sessions for row in s.reference)
    chosen, mismatch = choose_profile(normaliser, texts, language)
    found = ((f.path.name, wordless(f.sessions, chosen, answered=True)) for f in decoded.files)
    empty = (f"{name}: {finding}" for name, finding in found if finding)
    for warning in filter(None, [mismatch, *empty]):
        logger.warning("%s: %s", folder, warning)
    files = [ScoredFile(f, tuple(_score(s, f.mode, chosen, metrics) for s in f.sessions)) for f in decoded.files]
    return ScoredFolder(decoded, tuple(files), chosen)


def folder_rows(
    scored: ScoredFolder,
    run: str | None = None,
    stage: int | None = None,
    test_set: str | None = None,
    split: str | None = None,
    replicates: int = 1000,
) -> list[ScoreRow]:
    """Return one row per file; labels that are not given come from the folder."""
    folder = scored.decoded
    rows = []
    for file in scored.files:
        clips = file.decoded.clips
        label = RowLabel(
            run=run or folder.description.get("run") or folder.path.name,
            stage=stage if stage is not None else folder.stage,
            test_set=test_set or folder.test_set or _joined(clips, "corpus"),
            split=split or _joined(clips, "split"),
            mode=file.decoded.mode,
            n_ov=n_ov_range(file.decoded.path, clips) if file.decoded.mode == "over" else None,
        )
        rows.append(make_row(file.scores, label, scored.profile, replicates))
    return rows


def score_decoded(
    decoded: Path | str,
    run: str | None = None,
    stage: int | None = None,
    test_set: str | None = None,
    split: str | None = None,
    normaliser: str = AUTO,
    replicates: int = 1000,
    metrics: Sequence[str] = (),
) -> list[ScoreRow]:
    """Score a folder of the decoder; return one row per file.

    Args:
        run, stage, test_set, split: labels of the rows; by default those of the folder.
        normaliser: a profile, or ``auto``: that of the reference's script.
        metrics: further metrics by name (:mod:`pipeline.evaluation.metrics`).

    Raises:
        ScoreError: the folder holds no decoded clips, or a file is damaged.
        ConfigError: a metric is unknown.
    """
    scored = score_folder(Path(decoded), normaliser, load_metrics(metrics))
    return folder_rows(scored, run, stage, test_set, split, replicates)


def _joined(clips: Sequence[dict[str, Any]], field: str) -> str:
    return "+".join(sorted({str(c.get(field) or "?") for c in clips}))


def write_scores(rows: Sequence[ScoreRow], path: Path | str) -> None:
    """Write ``scores.json`` atomically. Undefined figures are null, never NaN."""
    content = [{k: r.get(k) for k in KEYS} | _further(r) for r in rows]
    with atomic_file(Path(path), wait=True) as file:
        file.write((json.dumps(content, ensure_ascii=False, indent=1, allow_nan=False) + "\n").encode())


def _further(row: ScoreRow) -> dict[str, Any]:
    """Return what only some rows have: metrics, which of them are coarse, and the clips that are missing."""
    metrics = row.get("metrics") or {}
    found = {
        "metrics": metrics,
        "coarse": [name for name, figure in metrics.items() if isinstance(figure, Coarse)],
        "missing": row.get("missing"),
    }
    return {k: v for k, v in found.items() if v}


def format_table(rows: Sequence[ScoreRow], intervals: bool = False) -> str:
    """Return the rows as a Markdown table that also reads well in a terminal; further metrics are last columns."""
    head = ["run", "stage", "test set", "split", "unit", "mode", "N_ov", "CER", "cpCER", "saCER", "Δcp", "Δsa", "ref."]
    keys = ["run", "stage", "test_set", "split", "unit", "mode", "n_ov"]
    rates = ["cer", "cpcer", "sacer", "delta_cp", "delta_sa"]
    further = metric_names(rows)
    profiles = sorted({str(r["normaliser"]) for r in rows})
    lines = [[named(h, profiles) for h in head] + further]
    for row in rows:
        figures = [cell(row[k], (row.get("ci") or {}).get(k) if intervals else None) for k in rates]
        metrics = [cell((row.get("metrics") or {}).get(name)) for name in further]
        lines.append([*(cell(row[k]) for k in keys), *figures, cell(row["n_ref"]), *metrics])
    note = f"Rates in percent; normaliser {', '.join(profiles)}." if rows else "No scores."
    return markdown(lines, right_from=len(keys)) + f"\n{note}\n"


def metric_names(rows: Sequence[ScoreRow]) -> list[str]:
    """List the metrics that rows have beyond CER, cpCER and saCER."""
    return list(dict.fromkeys(name for row in rows for name in row.get("metrics") or ()))


def cell(value: object, interval: Sequence[float] | None = None) -> str:
    """Format a value for a table: two decimals, a dash for ``None``, a mark at what is coarse."""
    if value is None:
        return "–"
    if isinstance(value, Coarse):
        return f"{value:.2f} coarse"
    if not isinstance(value, float):
        return str(value)
    return f"{value:.2f}" + (f" [{interval[0]:.2f}, {interval[1]:.2f}]" if interval else "")


def markdown(lines: Sequence[Sequence[str]], right_from: int = 1) -> str:
    """Return a Markdown table with aligned columns; the first line is the head."""
    widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]

    def put(line: Sequence[str]) -> str:
        sides = [str.ljust] * right_from + [str.rjust] * (len(line) - right_from)
        return "| " + " | ".join([side(t, w) for side, t, w in zip(sides, line, widths, strict=True)]) + " |"

    rule = "|" + "|".join("-" * (w + 1) + (":" if i >= right_from else "-") for i, w in enumerate(widths)) + "|"
    return "\n".join([put(lines[0]), rule, *map(put, lines[1:])]) + "\n"
