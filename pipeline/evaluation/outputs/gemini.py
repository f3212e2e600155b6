"""Gemini: JSON with a start per turn, or lines such as ``**Speaker 1** (00:12): text``.

Times are starts of whole seconds. A turn ends at the next start, the last at its own, so DER is coarse: a note says so.
"""

from __future__ import annotations

import re
from dataclasses import replace

from pipeline.evaluation.output_json import TurnKeys, json_turns
from pipeline.evaluation.output_reading import Notes, Reading, Rows, clock, without_fences

COARSE = "starts only: each turn ends at the next start, and DER is coarse"
KEYS = TurnKeys(
    text=("content", "text", "transcript", "transcription"),
    start=("timestamp", "start", "start_time", "time"),
    end=("end", "end_time"),
    speaker=("speaker", "speaker_id"),
    inside=("segments", "transcript_segments", "turns"),
    ignored=("language", "language_code", "emotion", "summary"),
)
_TIME = r"(?:\d{1,9}:)?\d{1,9}:\d{1,9}(?:\.\d{1,9})?"
_STAMP = rf"[\[(]({_TIME})(?:\s*[-–]\s*({_TIME}))?[\])]"
_NAME = r"\*{0,2}([^\s\[\]()*:：][^\[\]()*:：\n]{0,63}?)"
_LINES = (
    re.compile(rf"\s*{_NAME}:?\*{{0,2}}\s*{_STAMP}\*{{0,2}}[ \t]*[:：]?\*{{0,2}}(.*)"),  # **Speaker 1** (00:12): …
    re.compile(rf"\s*\*{{0,2}}{_STAMP}\*{{0,2}}\s*{_NAME}\*{{0,2}}[:：]\*{{0,2}}(.*)"),  # [00:12] Speaker 1: …
)
_MARKS = re.compile(r'"(?:timestamp|time)"\s*:\s*"\d+:\d\d')


def parse(session: str, text: str) -> tuple[Rows, Notes]:
    """Read JSON, else lines; a line without a label continues the turn before it."""
    body = without_fences(text)
    is_json = re.search(r'\{\s*"', body) is not None
    rows, notes = json_turns(session, body, KEYS) if is_json else _lines(session, body)
    if any(r.start is not None and r.end is None for r in rows):
        return _ended(rows), (*notes, COARSE)
    return rows, notes


def _ended(rows: Rows) -> Rows:
    """End each turn that has a start alone at the next start, the last one at its own."""
    after: float | None = None
    out = []
    for row in reversed(rows):
        if row.start is None or row.end is not None:
            out.append(row)
        else:
            out.append(replace(row, end=max(row.start, row.start if after is None else after), coarse=True))
        after = after if row.start is None else row.start
    return tuple(reversed(out))


def _lines(session: str, text: str) -> tuple[Rows, Notes]:
    reading = Reading(session)
    turns: list[list[str]] = []
    for line in text.split("\n"):
        front, back = (pattern.fullmatch(line) for pattern in _LINES)
        if front:
            turns.append([front[1], front[2], front[3] or "", front[4]])
        elif back:
            turns.append([back[3], back[1], back[2] or "", back[4]])
        elif turns:
            turns[-1][3] += f"\n{line}"
        else:
            reading.loose(line)
    for name, start, end, said in turns:
        reading.turn(name, said, clock(start), clock(end) if end else None)
    return reading.result()


def sniff(text: str) -> bool:
    """Whether it has a time stamp of minutes in JSON, or a name and a time in brackets at the start of most lines."""
    if _MARKS.search(text):
        return True
    heads = sum(_LINES[0].fullmatch(line) is not None for line in text.split("\n"))
    blank = sum(not line.strip() for line in text.split("\n"))
    return heads > 0 and 3 * heads >= text.count("\n") + 1 - blank
