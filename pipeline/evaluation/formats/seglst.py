"""SegLST: a JSON list of objects with session_id, speaker, start_time, end_time, words."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from pipeline.evaluation.files import read_json, read_text, seconds
from pipeline.evaluation.records import SegLstRow
from shards.errors import ScoreError

READS = (".json", ".seglst")
WRITES = ".json"


def read(path: Path) -> list[SegLstRow]:
    """Read a file; an empty one holds no rows.

    Raises:
        ScoreError: it is not SegLST; names the entry.
    """
    if not read_text(path).strip():
        return []
    entries = read_json(path)
    if not isinstance(entries, list):
        raise ScoreError(f"{path}: SegLST is a list of segments, this is a {type(entries).__name__}")
    out = []
    for i, row in enumerate(entries):
        where = f"{path}: entry {i}"
        if not isinstance(row, dict) or row.get("session_id") is None:
            raise ScoreError(f"{where}: not a SegLST segment: it has no session_id")
        words = row.get("words") or ""
        if isinstance(words, list):
            words = " ".join(map(str, words))
        speaker = row.get("speaker")
        if not isinstance(words, str) or not isinstance(speaker, str | int | None):
            raise ScoreError(f"{where}: words must be text and speaker a name, not {words!r} and {speaker!r}")
        start, end = (seconds(row.get(k), where) for k in ("start_time", "end_time"))
        out.append(SegLstRow(str(row["session_id"]), None if speaker is None else str(speaker), words, start, end))
    return out


def dumps(rows: Sequence[SegLstRow]) -> str:
    """Return rows as SegLST; times only if both are known."""
    out = []
    for r in rows:
        row: dict[str, object] = {"session_id": r.session, "words": r.text}
        if r.speaker is not None:
            row["speaker"] = r.speaker
        if r.start is not None and r.end is not None:
            row |= {"start_time": r.start, "end_time": r.end}
        out.append(row)
    return json.dumps(out, ensure_ascii=False, indent=1) + "\n"
