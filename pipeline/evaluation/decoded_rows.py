"""Rows of decoded clips: JSON Lines with what a model wrote and its reference.

``{key, session, corpus, split, mode, n_ov, names, raw, reference: [{speaker, start, end, text}]}``, one line per clip.
The model's text is parsed when it is scored, so that a better parser needs no new decoding. Output of other models may
have ``session_id`` for ``key`` and ``text`` for ``raw``, and need not have the rest.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from pipeline.evaluation.files import json_lines, read_text, seconds
from pipeline.evaluation.parse import parse
from pipeline.evaluation.records import SegLstRow, SessionTranscript, check_times
from pipeline.prompts import Mode
from shards.errors import ScoreError

MODES = tuple(mode.value for mode in Mode)


def parsed(session: str, text: str, names: Sequence[str] = ()) -> tuple[tuple[SegLstRow, ...], tuple[str, ...]]:
    """Parse a model's text into rows and notes. Reversed times are the model's error: the text stays, untimed."""
    found = parse(text, names)
    out = []
    for t in found.turns:
        timed = t.start is not None and t.end is not None and t.start <= t.end
        out.append(SegLstRow(session, t.speaker, t.text, t.start if timed else None, t.end if timed else None))
    return tuple(out), found.notes


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


def hypothesis(row: dict[str, Any], where: str) -> tuple[tuple[SegLstRow, ...], tuple[str, ...]]:
    """Return the model's turns and the notes of the parser.

    Raises:
        ScoreError: the row has no text.
    """
    text = row.get("raw", row.get("text"))
    if not isinstance(text, str):
        raise ScoreError(f"{where}: no text under raw or text")
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
        speaker = turn.get("speaker")
        out.append(SegLstRow(row["key"], None if speaker is None else str(speaker), turn["text"], start, end))
    for r in out:
        check_times(r, where)
    return tuple(out)


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
        return {path.stem: parsed(path.stem, read_text(path))[1]}
    if path.suffix.lower() != ".jsonl":
        return {}
    found = {row["key"]: hypothesis(row, where)[1] for where, row in rows(path)}
    return {key: notes for key, notes in found.items() if notes}
