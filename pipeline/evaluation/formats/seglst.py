"""SegLST: a JSON list of objects with session_id, speaker, start_time, end_time, words, and gender if known."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pipeline.evaluation.files import read_json, read_text, seconds
from pipeline.evaluation.formats.json import is_own, rows_of
from pipeline.evaluation.records import SegLstRow
from shards.errors import ScoreError
from shards.sample import gender_of

READS = (".seglst.json", ".json", ".seglst")
WRITES = ".json"


def read(path: Path) -> list[SegLstRow]:
    """Read a file; an empty one holds no rows. Other JSON that this project writes is read too.

    Raises:
        ScoreError: it is not SegLST; names the entry.
    """
    if not read_text(path).strip():
        return []
    entries = read_json(path)
    if is_own(entries):
        return rows_of(entries, path)
    if not isinstance(entries, list):
        raise ScoreError(f"{path}: SegLST is a list of segments, this is a {type(entries).__name__}")
    out = []
    worded = any(isinstance(row, dict) and ("words" in row or "text" in row) for row in entries)
    for i, row in enumerate(entries):
        where = f"{path}: entry {i}"
        if not isinstance(row, dict) or row.get("session_id") is None:
            raise ScoreError(f"{where}: not a SegLST segment: it has no session_id")
        if worded and "words" not in row and "text" not in row:
            raise ScoreError(f"{where}: no words, which other entries have; write them as words, an empty text if none")
        words = _words(row, where)
        speaker = row.get("speaker")
        if isinstance(speaker, bool) or not isinstance(speaker, str | int | None):
            raise ScoreError(f"{where}: words must be text and speaker a name, not {speaker!r}")
        start, end = (seconds(row.get(k), where) for k in ("start_time", "end_time"))
        name, gender = None if speaker is None else str(speaker), gender_of(row.get("gender"))
        out.append(SegLstRow(str(row["session_id"]), name, words, start, end, gender))
    return out


def _words(row: dict[str, Any], where: str) -> str:
    """Return the text of a segment: ``words``, or ``text`` if these are missing or empty.

    A list holds words, or objects with the word under ``word`` or ``text``, as recognisers write them.

    Raises:
        ScoreError: it is neither text nor such a list.
    """
    key = "text" if row.get("words") in (None, "", []) and row.get("text") is not None else "words"
    words = row.get(key)
    if words is None:
        return ""
    if isinstance(words, list):
        found = [w.get("word", w.get("text")) if isinstance(w, dict) else w for w in words]
        if all(isinstance(w, str | int | float) and not isinstance(w, bool) for w in found):
            return " ".join([str(w).strip() for w in found])
    if not isinstance(words, str):
        raise ScoreError(f"{where}: {key} must be text or a list of words, not {str(words)[:80]}")
    return words


def dumps(rows: Sequence[SegLstRow]) -> str:
    """Return rows as SegLST; times only if both are known."""
    out = []
    for r in rows:
        row: dict[str, object] = {"session_id": r.session, "words": r.text}
        if r.speaker is not None:
            row["speaker"] = r.speaker
        if r.start is not None and r.end is not None:
            row |= {"start_time": r.start, "end_time": r.end}
        if r.gender is not None:
            row["gender"] = r.gender
        out.append(row)
    return json.dumps(out, ensure_ascii=False, indent=1) + "\n"
