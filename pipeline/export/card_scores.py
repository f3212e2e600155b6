"""Scores on a model card: tables, and the metadata that Hugging Face shows."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from pipeline.evaluation.result_tables import results
from shards.errors import ScoreError, SpeakerLMError

VALIDATION = "validation.jsonl"
METRICS = {"cer": "CER", "cpcer": "cpCER", "sacer": "saCER"}
# Runs whose weights were rounded, as speakerlm-decode names them.
_SMALLER = re.compile(r"(.*) \((int8|nf4|awq|gptq|compressed-tensors|fp8)\)")


def read_scores(path: Path, asked: bool) -> Sequence[dict[str, Any]]:
    """Read the rows that ``speakerlm-score`` wrote; none if the file is missing.

    Args:
        asked: the user named the file, so that it has to be there.

    Raises:
        ScoreError: it is missing, or something else.
    """
    if not path.is_file():
        if asked:
            raise ScoreError(f"{path}: no such file; give the scores.json that speakerlm-score wrote")
        return []
    try:
        rows: Sequence[dict[str, Any]] = json.loads(path.read_text(encoding="utf-8"))
        results(rows)
        model_index("", rows)
    except (ValueError, KeyError, TypeError, AttributeError, SpeakerLMError) as e:
        raise ScoreError(f"{path}: not scores that speakerlm-score wrote: {e}") from e
    return rows


def scores_section(rows: Sequence[dict[str, Any]], run: Path) -> str:
    """Return Markdown: scores of test sets, and what the run's last validation found."""
    table = results(rows).markdown() if rows else "No scores of test sets were given when this folder was written."
    return "\n\n".join([table, *_held_out(run / VALIDATION)])


def smaller_scores(rows: Sequence[dict[str, Any]]) -> str:
    """Return Markdown that compares rounded weights with those of the folder; empty if no such pair is scored."""
    whole = {_which(row): row for row in rows if not _SMALLER.fullmatch(str(row["run"]))}
    lines = []
    for row in rows:
        found = _SMALLER.fullmatch(str(row["run"]))
        before = whole.get((found[1], *_which(row)[1:])) if found else None
        if found is None or before is None:
            continue
        where = f"{row['test_set']}, {row['mode']}" + (f", N_ov {row['n_ov']}" if row.get("n_ov") is not None else "")
        cells = [f"{_figure(before.get(m))} → {_figure(row.get(m))}" for m in METRICS]
        lines.append(f"| {found[2]} | {where} | {' | '.join(cells)} |")
    if not lines:
        return ""
    head = [f"| `--quantize` | test set | {' | '.join(METRICS.values())} |", "|---" * (2 + len(METRICS)) + "|"]
    return "\n".join(["Measured on this model, rates in percent before and after:", "", *head, *lines])


def _which(row: dict[str, Any]) -> tuple[Any, ...]:
    """What two rows share that differ in the weights' precision alone."""
    return row["run"], *(row.get(k) for k in ("test_set", "split", "unit", "mode", "n_ov", "normaliser"))


def _held_out(path: Path) -> Iterator[str]:
    """Yield what the last complete line of a run's validations says."""
    if not path.is_file():
        return
    last: dict[str, Any] = {}
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            row = json.loads(line)
        except ValueError:  # a line that a killed run did not finish
            continue
        last = row if isinstance(row, dict) and isinstance(row.get("loss"), float) else last
    if not last:
        return
    losses = ", ".join(f"{name} {value:.4f}" for name, value in (last.get("losses") or {}).items())
    step, loss = last.get("step", "?"), last["loss"]
    yield f"Held-out data during training, at step {step}: loss {loss:.4f} per token ({losses})."
    if decoded := last.get("scores"):
        cells = [[mode, *(_figure(rates.get(m)) for m in METRICS)] for mode, rates in decoded.items()]
        lines = [" | ".join(row) for row in (["mode", *METRICS.values()], ["---"] * 4, *cells)]
        head = "A small decode of clips of that data; rates in percent:"
        yield "\n".join([head, "", *(f"| {line} |" for line in lines)])


def _figure(value: float | None) -> str:
    return "–" if value is None else f"{value:.2f}"


def model_index(name: str, rows: Sequence[dict[str, Any]]) -> str:
    """Return the YAML of ``model-index``, by which Hugging Face lists scores; empty without scores."""
    found = []
    for row in rows:
        if _SMALLER.fullmatch(str(row["run"])):
            continue  # not the weights of this folder
        metrics = [
            {"type": key, "name": f"{title} (%)", "value": round(float(row[key]), 2)}
            for key, title in METRICS.items()
            if row.get(key) is not None
        ]
        if metrics:
            mode = f"{row['mode']}, N_ov {row['n_ov']}" if row.get("n_ov") is not None else str(row["mode"])
            dataset = {"type": str(row["test_set"]), "name": f"{row['test_set']} ({mode})", "split": row.get("split")}
            dataset = {k: v for k, v in dataset.items() if v}
            task = {"type": "automatic-speech-recognition", "name": "speaker-attributed transcription"}
            found.append({"task": task, "dataset": dataset, "metrics": metrics})
    entries = json.dumps([{"name": name, "results": found}], ensure_ascii=False)  # JSON is YAML
    return f"model-index: {entries}\n" if found else ""
