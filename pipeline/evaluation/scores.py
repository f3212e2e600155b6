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
from pipeline.evaluation.metrics import SessionScore, score_session, total
from pipeline.evaluation.normalize import Profile, profile
from pipeline.evaluation.parse import parse
from pipeline.evaluation.records import Segment, Session
from shards.errors import ScoreError

Row = dict[str, Any]

KEYS = (
    "run", "stage", "test_set", "split", "unit", "mode", "n_ov",
    "cer", "cpcer", "sacer", "delta_cp", "delta_sa", "n_ref", "ci", "normaliser",
)  # fmt: skip
MODES = ("asr", "no", "match", "over")
DEFAULT_PROFILE = "paper-zh"


@dataclass(frozen=True)
class Label:
    """What a row says besides figures."""

    run: str
    stage: int | None
    test_set: str
    split: str
    mode: str
    unit: str = "clip"
    n_ov: str | None = None


def make_row(scores: Sequence[SessionScore], label: Label, chosen: Profile, replicates: int = 1000) -> Row:
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


def read_decoded(path: Path) -> list[dict[str, Any]]:
    """Rows of one ``{mode}.jsonl`` as the decoder wrote them.

    Raises:
        ScoreError: the file is missing, a line is not JSON, a key occurs twice, or a field is missing.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except FileNotFoundError as e:
        raise ScoreError(f"no decoded output at {path}; run speakerlm-decode first") from e
    rows: dict[str, dict[str, Any]] = {}
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
            key = row["key"]
            row["mode"], row["reference"]
        except (ValueError, KeyError, TypeError) as e:
            raise ScoreError(f"{path}:{number}: not a decoded clip ({type(e).__name__}: {e}); decode it again") from e
        if key in rows:
            raise ScoreError(f"{path}:{number}: key {key} occurs twice; delete one of the lines")
        rows[key] = row
    return list(rows.values())


def decoded_session(row: dict[str, Any]) -> Session:
    """One decoded clip as a session; the model's text is parsed here, so that a better parser needs no new decoding."""
    key, mode = row["key"], row["mode"]
    names = tuple(row.get("names") or ())
    reference = tuple(Segment(key, s["speaker"], s["text"], s.get("start"), s.get("end")) for s in row["reference"])
    notes: tuple[str, ...] = ()
    hypothesis: tuple[Segment, ...]
    if mode == "asr":
        hypothesis = (Segment(key, None, row["raw"]),)
    elif "raw" in row:
        parsed = parse(row["raw"], names)
        hypothesis = tuple(Segment(key, t.speaker, t.text, t.start, t.end) for t in parsed.turns)
        notes = parsed.notes
    else:
        hypothesis = tuple(Segment(key, s["speaker"], s["text"]) for s in row["hypothesis"])
    return Session(key, reference, hypothesis, row.get("session") or key, names or None, notes)


def score_rows(rows: Iterable[dict[str, Any]], chosen: Profile) -> list[SessionScore]:
    """Score decoded clips: CER always, cpCER but for ASR, saCER where names were registered."""
    out = []
    for row in rows:
        mode = row["mode"]
        out.append(score_session(decoded_session(row), chosen, mode != "asr", mode in ("match", "over")))
    return out


def decoded_files(folder: Path) -> list[Path]:
    """The files that the decoder wrote, in the order of :data:`MODES`, Over-Regist by its range.

    Raises:
        ScoreError: there is none.
    """
    files = [p for p in folder.glob("*.jsonl") if p.stem.split("-")[0] in MODES]
    if not files:
        raise ScoreError(f"{folder} holds none of {', '.join(f'{m}.jsonl' for m in MODES)}; run speakerlm-decode first")

    def place(path: Path) -> tuple[int, int, str]:
        mode, *numbers = path.stem.split("-")
        return MODES.index(mode), int(numbers[0]) if numbers and numbers[0].isdigit() else 0, path.stem

    return sorted(files, key=place)


def describe(folder: Path) -> dict[str, Any]:
    """What ``decode.json`` says the clips are of; empty where there is none."""
    path = folder / "decode.json"
    return dict(json.loads(path.read_text(encoding="utf-8")).get("about", {})) if path.exists() else {}


def score_decoded(
    decoded: Path | str,
    run: str | None = None,
    stage: int | None = None,
    test_set: str | None = None,
    split: str | None = None,
    normaliser: str = DEFAULT_PROFILE,
    replicates: int = 1000,
) -> list[Row]:
    """A row for every file in a folder written by the decoder; what is not said is taken from there.

    Raises:
        ScoreError: the folder holds nothing decoded, or a file is damaged.
    """
    folder, chosen = Path(decoded), profile(normaliser)
    about = describe(folder)
    rows = []
    for path in decoded_files(folder):
        clips = read_decoded(path)
        if not clips:
            continue
        mode = clips[0]["mode"]
        label = Label(
            run=run or about.get("run") or folder.name,
            stage=stage if stage is not None else about.get("stage"),
            test_set=test_set or about.get("test_set") or _joined(clips, "corpus"),
            split=split or _joined(clips, "split"),
            mode=mode,
            n_ov=n_ov_range(path, clips) if mode == "over" else None,
        )
        rows.append(make_row(score_rows(clips, chosen), label, chosen, replicates))
    return rows


def n_ov_range(path: Path, clips: Sequence[dict[str, Any]]) -> str | None:
    """The range in the file's name, else that of the clips (a small bank gives fewer than were asked for)."""
    _, _, named = path.stem.partition("-")
    drawn = [c["n_ov"] for c in clips if c.get("n_ov") is not None]
    return named or (f"{min(drawn)}-{max(drawn)}" if drawn else None)


def _joined(clips: Sequence[dict[str, Any]], field: str) -> str:
    return "+".join(sorted({str(c.get(field) or "?") for c in clips}))


def write_scores(rows: Sequence[Row], path: Path | str) -> None:
    """Write ``scores.json`` whole or not at all. Undefined figures are null, never NaN."""
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile("w", encoding="utf-8", dir=target.parent, suffix=".tmp", delete=False) as f:
        json.dump([{k: r.get(k) for k in KEYS} for r in rows], f, ensure_ascii=False, indent=1, allow_nan=False)
        f.write("\n")
    Path(f.name).chmod(0o644)
    Path(f.name).replace(target)


def read_scores(path: Path | str) -> list[Row]:
    """Rows of a ``scores.json``.

    Raises:
        ScoreError: the file is missing or holds something else.
    """
    try:
        rows = json.loads(Path(path).read_text(encoding="utf-8-sig"))
    except FileNotFoundError as e:
        raise ScoreError(f"no scores at {path}") from e
    except ValueError as e:
        raise ScoreError(f"{path} is not JSON: {e}") from e
    if not isinstance(rows, list) or not all(isinstance(r, dict) and set(KEYS) <= set(r) for r in rows):
        raise ScoreError(f"{path} does not hold rows with {', '.join(KEYS)}")
    return rows


def format_table(rows: Sequence[Row], intervals: bool = False) -> str:
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
