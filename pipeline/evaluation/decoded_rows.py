"""Decoded clips: JSON Lines, a line a clip, with what a model wrote and what it should have written.

``{key, session, corpus, split, mode, n_ov, names, raw, reference: [{speaker, start, end, text}]}``. The model's text is
parsed when it is scored, so that a better parser needs no new decoding. Output of other models may have ``session_id``
for ``key`` and ``text`` for ``raw``, and need not have the rest.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from pipeline.evaluation.files import json_lines, read_json, read_text, seconds
from pipeline.evaluation.parse import parse
from pipeline.evaluation.records import SegLstRow, SessionTranscript
from pipeline.prompts import Mode
from shards.errors import ScoreError

MODES = tuple(map(str, Mode))


def parsed(session: str, text: str, names: Sequence[str] = ()) -> tuple[tuple[SegLstRow, ...], tuple[str, ...]]:
    """A model's text as segments, and what was odd. Reversed times are the model's error: the text stays, untimed."""
    found = parse(text, names)
    out = []
    for t in found.turns:
        timed = t.start is not None and t.end is not None and t.start <= t.end
        out.append(SegLstRow(session, t.speaker, t.text, t.start if timed else None, t.end if timed else None))
    return tuple(out), found.notes


def rows(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """(``FILE:LINE``, row) of each clip, its id under ``key``.

    Raises:
        ScoreError: a line is no JSON object, has no id, or repeats one; ``names`` are no names.
    """
    seen: set[str] = set()
    for where, row in json_lines(path):
        if "session_id" not in row and "key" not in row:
            raise ScoreError(f"{where}: no JSON object with session_id or key")
        key = str(row["session_id"] if "session_id" in row else row["key"])
        if key in seen:
            raise ScoreError(f"{where}: session {key} occurs twice; delete one of the lines")
        seen.add(key)
        names = row.get("names") or []
        if not isinstance(names, list) or not all(isinstance(n, str) for n in names):
            raise ScoreError(f"{where}: names must be a list of strings, not {names!r}")
        yield where, {**row, "key": key, "names": names}


def hypothesis(row: dict[str, Any], where: str) -> tuple[tuple[SegLstRow, ...], tuple[str, ...]]:
    """The model's side of a row, and what was odd in it.

    Raises:
        ScoreError: there is no text.
    """
    text = row.get("raw", row.get("text"))
    if not isinstance(text, str):
        raise ScoreError(f"{where}: no text under raw or text")
    if row.get("mode") == "asr":
        return (SegLstRow(row["key"], None, text),), ()
    return parsed(row["key"], text, row["names"])


def reference(row: dict[str, Any], where: str) -> tuple[SegLstRow, ...]:
    """The other side.

    Raises:
        ScoreError: a turn has no text, or times that are none.
    """
    turns = row.get("reference")
    if not isinstance(turns, list):
        raise ScoreError(f"{where}: reference is no list of turns")
    out = []
    for i, turn in enumerate(turns, 1):
        if not isinstance(turn, dict) or not isinstance(turn.get("text"), str):
            raise ScoreError(f"{where}: turn {i} of the reference has no text")
        start, end = (seconds(turn.get(k), f"{where}: turn {i}") for k in ("start", "end"))
        speaker = turn.get("speaker")
        out.append(SegLstRow(row["key"], None if speaker is None else str(speaker), turn["text"], start, end))
    for s in out:
        check_times(s, where)
    return tuple(out)


def check_times(s: SegLstRow, where: object) -> None:
    """Refuse a segment that ends before it starts."""
    if s.start is not None and s.end is not None and s.end < s.start:
        raise ScoreError(
            f"{where}: session {s.session}, speaker {s.speaker}: ends at {s.end} s before its start {s.start} s"
        )


def registered_names(path: Path) -> dict[str, tuple[str, ...]]:
    """Session → the names that were in its prompt, of JSON Lines that say so; empty for another format."""
    if path.suffix.lower() != ".jsonl":
        return {}
    return {row["key"]: tuple(row["names"]) for _, row in rows(path) if row["names"]}


def output_notes(path: Path) -> dict[str, tuple[str, ...]]:
    """Session → what was odd in the model's text, of JSON Lines or a text file; empty for another format."""
    if path.suffix.lower() == ".txt":
        return {path.stem: parsed(path.stem, read_text(path))[1]}
    if path.suffix.lower() != ".jsonl":
        return {}
    found = {row["key"]: hypothesis(row, where)[1] for where, row in rows(path)}
    return {key: notes for key, notes in found.items() if notes}


def read_decoded(path: Path) -> list[dict[str, Any]]:
    """Rows of one file of the decoder, complete and all of one mode.

    Raises:
        ScoreError: the file is missing, or a row is damaged; names the line.
    """
    if not path.exists():
        raise ScoreError(f"no decoded output at {path}; run speakerlm-decode first")
    found: list[dict[str, Any]] = []
    for where, row in rows(path):
        if row.get("mode") not in MODES:
            raise ScoreError(f"{where}: mode {row.get('mode')!r} is none of {', '.join(MODES)}; decode it again")
        if found and row["mode"] != found[0]["mode"]:
            raise ScoreError(f"{where}: mode {row['mode']} in a file of mode {found[0]['mode']}")
        if not isinstance(row.get("n_ov"), int | None):
            raise ScoreError(f"{where}: n_ov {row['n_ov']!r} is no number of speakers")
        hypothesis(row, where)
        reference(row, where)
        found.append(row)
    return found


def decoded_session(row: dict[str, Any]) -> SessionTranscript:
    """One clip as it is scored."""
    key = row["key"]
    said, notes = hypothesis(row, key)
    return SessionTranscript(
        key, reference(row, key), said, row.get("session") or key, tuple(row["names"]) or None, notes
    )


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


def read_description(folder: Path) -> dict[str, Any]:
    """What ``decode.json`` says the clips are of; empty where there is none.

    Raises:
        ScoreError: it is damaged.
    """
    path = folder / "decode.json"
    if not path.exists():
        return {}
    content = read_json(path)
    about = content.get("about", {}) if isinstance(content, dict) else None
    if not isinstance(about, dict) or not isinstance(about.get("stage"), int | None):
        raise ScoreError(f"{path} does not describe decoded clips; decode them again")
    return about


def n_ov_range(path: Path, clips: Sequence[dict[str, Any]]) -> str | None:
    """The range in the file's name, else that of the clips (a small bank gives fewer than were asked for)."""
    _, _, named = path.stem.partition("-")
    drawn = [c["n_ov"] for c in clips if c.get("n_ov") is not None]
    return named or (f"{min(drawn)}-{max(drawn)}" if drawn else None)
