"""Rows of decoded clips: JSON Lines with what a model wrote and its reference.

``{key, session, corpus, split, mode, n_ov, names, raw, reference: [{speaker, start, end, text}]}``, one line per clip.
The model's text is parsed when it is scored, so that a better parser needs no new decoding. Output of other models may
have ``session_id`` for ``key`` and ``text`` for ``raw``, and need not have the rest. ``"format"`` names the system
whose text it is (:mod:`pipeline.evaluation.outputs`), such as ``speaker-reasoner``; the text may be a list of replies,
or JSON. A turn of the reference may have a ``gender``.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from pipeline.evaluation.files import json_lines, read_text, seconds
from pipeline.evaluation.outputs import parse_output
from pipeline.evaluation.parse import parse
from pipeline.evaluation.records import (
    TIME_SLACK_S,
    SegLstRow,
    SessionTranscript,
    checked,
    one_line,
    split_label,
)
from pipeline.prompts import Mode
from shards.errors import ScoreError
from shards.sample import gender_of

NAMED_LINES = "raw"  # format of a row's text, ``NAME: text``; so is a row without a format
MODES = tuple(mode.value for mode in Mode)

_CLOCK = re.compile(r"\[\d+:\d\d:\d\d\] ")  # begins every line of a transcript for reading


def parsed(session: str, text: str, names: Sequence[str] = ()) -> tuple[tuple[SegLstRow, ...], tuple[str, ...]]:
    """Parse a model's text into rows and notes. Reversed times are the model's error: the text stays, untimed."""
    found = parse(text, names)
    out = []
    for t in found.turns:
        timed = t.start is not None and t.end is not None and t.start <= t.end + TIME_SLACK_S
        out.append(SegLstRow(session, t.speaker, t.text, t.start if timed else None, t.end if timed else None))
    return tuple(out), found.notes


def parsed_file(path: Path) -> tuple[tuple[SegLstRow, ...], tuple[str, ...]]:
    """Parse a text file, a session of the file's name, into rows and notes.

    It holds a model's text, or a transcript as speakerlm-transcribe writes it for reading: ``[0:01:02] NAME: text``.
    Times of such lines are whole seconds without an end, so its rows have none.
    """
    session, text = path.stem, read_text(path)
    if not has_clocks(text):
        return parsed(session, text)
    lines = (_CLOCK.sub("", line, count=1) for line in text.split("\n") if line.strip())
    return tuple(SegLstRow(session, *split_label(one_line(line))) for line in lines), ()


def has_clocks(text: str) -> bool:
    """Whether every line begins with a time such as ``[0:01:02]``, as speakerlm-transcribe writes for reading."""
    return all(_CLOCK.match(line) for line in text.split("\n") if line.strip())


def rows(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield (``FILE:LINE``, row) for each clip, its id under ``key``.

    Raises:
        ScoreError: a line is not a JSON object, has no id, or repeats one; ``names`` is not a list of strings.
    """
    seen: set[str] = set()
    for where, row in json_lines(path):
        if "session_id" not in row and "key" not in row:
            raise ScoreError(f"{where}: no session_id or key in the JSON object")
        key = str(row["session_id"] if "session_id" in row else row["key"])
        if key in seen:
            raise ScoreError(f"{where}: session {key} occurs twice; delete one of the lines")
        seen.add(key)
        names = row.get("names") or []
        if not isinstance(names, list) or not all(isinstance(n, str) for n in names):
            raise ScoreError(f"{where}: names must be a list of strings, not {names!r}")
        yield where, {**row, "key": key, "names": names}


def raw_text(row: dict[str, Any], where: str) -> str:
    """Return what the model wrote; a list of replies is joined, other JSON is text again.

    Raises:
        ScoreError: the row has no text.
    """
    text = row.get("raw", row.get("text"))
    if isinstance(text, list) and all(isinstance(part, str) for part in text):
        return "\n".join(text)
    if isinstance(text, dict) or (isinstance(text, list) and all(isinstance(part, dict) for part in text)):
        return json.dumps(text, ensure_ascii=False)
    if not isinstance(text, str):
        raise ScoreError(f"{where}: no text under raw or text")
    return text


def hypothesis(row: dict[str, Any], where: str) -> tuple[tuple[SegLstRow, ...], tuple[str, ...]]:
    """Return the model's turns and the notes of the parser.

    Raises:
        ScoreError: the row has no text, or its format is unknown.
    """
    text = raw_text(row, where)
    if row.get("format") not in (None, NAMED_LINES):
        return parse_output(str(row["format"]), row["key"], text)
    if row.get("mode") == "asr":
        return (SegLstRow(row["key"], None, text),), ()
    return parsed(row["key"], text, row["names"])


def reference(row: dict[str, Any], where: str) -> tuple[SegLstRow, ...]:
    """Return the reference turns.

    Raises:
        ScoreError: a turn has no text, or invalid times.
    """
    turns = row.get("reference")
    if not isinstance(turns, list):
        raise ScoreError(f"{where}: reference is not a list of turns")
    out = []
    for i, turn in enumerate(turns, 1):
        if not isinstance(turn, dict) or not isinstance(turn.get("text"), str):
            raise ScoreError(f"{where}: turn {i} of the reference has no text")
        start, end = (seconds(turn.get(k), f"{where}: turn {i}") for k in ("start", "end"))
        speaker, gender = turn.get("speaker"), gender_of(turn.get("gender"))
        out.append(SegLstRow(row["key"], None if speaker is None else str(speaker), turn["text"], start, end, gender))
    return tuple(checked(r, where) for r in out)


def decoded_session(row: dict[str, Any], where: str = "") -> SessionTranscript:
    """Return one clip as a session to score.

    Raises:
        ScoreError: the row has no text, or a damaged reference.
    """
    key, where = row["key"], where or row["key"]
    turns, notes = hypothesis(row, where)
    names = tuple(row["names"]) or None
    return SessionTranscript(key, reference(row, where), turns, row.get("session") or key, names, notes)


def registered_names(path: Path) -> dict[str, tuple[str, ...]]:
    """Return session → names in its prompt, from JSON Lines that have them; empty for another format."""
    if path.suffix.lower() != ".jsonl":
        return {}
    return {row["key"]: tuple(row["names"]) for _, row in rows(path) if row["names"]}


def output_notes(path: Path) -> dict[str, tuple[str, ...]]:
    """Return session → notes of the parser, from JSON Lines or a text file; empty for another format."""
    if path.suffix.lower() == ".txt":
        notes = parsed_file(path)[1]
        return {path.stem: notes} if notes else {}
    if path.suffix.lower() != ".jsonl":
        return {}
    found = {row["key"]: hypothesis(row, where)[1] for where, row in rows(path)}
    return {key: notes for key, notes in found.items() if notes}
