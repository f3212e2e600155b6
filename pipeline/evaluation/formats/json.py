"""JSON: a list of objects with session, speaker, start, end, text; JSON of speakerlm-transcribe is read too."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pipeline.evaluation.files import read_json, read_text, seconds
from pipeline.evaluation.folders import is_transcript
from pipeline.evaluation.records import SegLstRow
from shards.errors import ScoreError

WRITES = ".json"

logger = logging.getLogger(__name__)


def read(path: Path) -> list[SegLstRow]:
    """Read a file; an empty one holds no rows.

    Raises:
        ScoreError: it is neither a list of turns nor a transcript of speakerlm-transcribe; names the entry.
    """
    content = read_json(path) if read_text(path).strip() else []
    if not is_own(content) and content != []:
        raise ScoreError(f"{path}: neither a list of turns with session and text nor a transcript with audio and turns")
    return rows_of(content, path)


def is_own(content: Any) -> bool:
    """Whether parsed JSON has the shape of this format and not that of SegLST."""
    if isinstance(content, dict):
        return is_transcript(content)
    first = content[0] if isinstance(content, list) and content else None
    return isinstance(first, dict) and "session" in first and "session_id" not in first


def rows_of(content: Any, path: Path) -> list[SegLstRow]:
    """Return the rows of content for which :func:`is_own` holds.

    Raises:
        ScoreError: an entry has no session or text, or invalid times; names it.
    """
    entries = content
    if isinstance(content, dict):
        session = Path(content["audio"]).stem
        entries = [{**turn, "session": session} if isinstance(turn, dict) else turn for turn in content["turns"]]
        if content.get("error"):
            logger.warning("%s: the transcript is incomplete (%s)", path, content["error"])
    out = []
    for i, row in enumerate(entries):
        where = f"{path}: entry {i}"
        if not isinstance(row, dict) or row.get("session") is None or not isinstance(row.get("text"), str):
            raise ScoreError(f"{where}: no turn with session and text")
        speaker = row.get("speaker")
        if isinstance(speaker, bool) or not isinstance(speaker, str | int | None):
            raise ScoreError(f"{where}: speaker must be a name, not {speaker!r}")
        start, end = (seconds(row.get(k), where) for k in ("start", "end"))
        name = None if speaker is None else str(speaker)
        out.append(SegLstRow(str(row["session"]), name, row["text"], start, end))
    return out


def dumps(rows: Sequence[SegLstRow]) -> str:
    """Return rows as JSON; unknown times are null."""
    out = [{"session": r.session, "speaker": r.speaker, "start": r.start, "end": r.end, "text": r.text} for r in rows]
    return json.dumps(out, ensure_ascii=False, indent=1) + "\n"
