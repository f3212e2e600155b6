"""NIST STM: ``SESSION CHANNEL SPEAKER START END [<label>] WORDS``. meeteval reads and writes its lines."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from pipeline.evaluation.files import numbered_lines, seconds
from pipeline.evaluation.records import SegLstRow, check_distinct, one_line, times_of
from shards.errors import ScoreError

READS = (".stm",)
WRITES = ".stm"

_LABEL = re.compile(r"^<[^<>\s]*,[^<>\s]*>\s*")  # <o,f0,male>: the optional field of NIST's format, not a word


def read(path: Path) -> list[SegLstRow]:
    """Read a file.

    Raises:
        ScoreError: a line is not STM, or marks time to be ignored; names the line.
    """
    from meeteval.io.stm import STMLine

    out = []
    for number, line in numbered_lines(path):
        try:
            x = STMLine.parse(line, parse_float=float)
        except (ValueError, TypeError) as e:
            raise ScoreError(f"{path}:{number}: not an STM line: {line.strip()[:80]!r}") from e
        if "IGNORE_TIME_SEGMENT_IN_SCORING" in x.transcript.upper():
            raise ScoreError(f"{path}:{number}: time to be ignored is not supported; cut it out of both sides")
        start, end = (seconds(t, f"{path}:{number}") for t in (x.begin_time, x.end_time))
        text = "" if x.transcript == "<NA>" else _LABEL.sub("", x.transcript)
        out.append(SegLstRow(x.filename, None if x.speaker_id == "<NA>" else x.speaker_id, text, start, end))
    return out


def dumps(rows: Sequence[SegLstRow]) -> str:
    """Return rows as STM.

    Raises:
        ScoreError: a row has no times, or would be read back as another session, speaker or text.
    """
    from meeteval.io.stm import STM, STMLine

    check_names(rows, "STM")
    lines = []
    for r in rows:
        start, end = times_of(r, "STM")
        lines.append(STMLine(name_field(r.session), 1, name_field(r.speaker), start, end, _words(r)))
    return str(STM(lines).dumps())


def check_names(rows: Sequence[SegLstRow], kind: str) -> None:
    """Refuse sessions and speakers that could not be told apart when they are read back.

    Raises:
        ScoreError: two names would be equal, or a session would be a comment.
    """
    sessions = list(dict.fromkeys(r.session for r in rows))
    check_distinct(sessions, name_field, kind)
    for session in sessions:
        if kind == "STM" and session.lstrip().startswith(";"):
            raise ScoreError(f"STM would read session {session!r} as a comment; rename it, or write SegLST")
        check_distinct((r.speaker for r in rows if r.session == session), name_field, f"{kind}, session {session},")


def _words(row: SegLstRow) -> str:
    """Return the text of a row on one line.

    Raises:
        ScoreError: a reader would take it for something else.
    """
    text = one_line(row.text)
    if text == "<NA>" or _LABEL.match(text) or "IGNORE_TIME_SEGMENT_IN_SCORING" in text.upper():
        raise ScoreError(f"session {row.session}: STM cannot hold the text {text[:40]!r}; write SegLST")
    return text


def name_field(name: str | None) -> str:
    """Return a name as one field: white space becomes ``_``; an empty name becomes ``<NA>``."""
    return "_".join((name or "").split()) or "<NA>"
