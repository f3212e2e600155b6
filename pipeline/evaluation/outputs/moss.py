"""MOSS-Transcribe-Diarize: ``[0.48][S01]words[1.66]`` in one string; turns may overlap, the speaker may be missing."""

from __future__ import annotations

import re

from pipeline.evaluation.output_reading import CUT, NUMBER, Notes, Reading, Rows, without_fences

_BRACKET = re.compile(rf"\[({NUMBER})\](\[S\d+\])?")
_MARKS = re.compile(rf"\[(?:{NUMBER})\]\[S\d+\][^\[]")
_SPEAKER = re.compile(r"\[(S\d+)\]")


def parse(session: str, text: str) -> tuple[Rows, Notes]:
    """Read the turns. A bracket that would end a turn before its start is text.

    A bracket that a speaker follows begins a turn; without an end before it, it ends the turn before too.
    """
    reading = Reading(session)
    text = without_fences(text)
    start: float | None = None
    begin = speaker_end = 0
    speaker: str | None = None
    for match in _BRACKET.finditer(text):
        seconds = float(match[1])
        if start is not None and seconds < start:
            continue
        if start is None:
            _rest(reading, text[begin : match.start()])
        else:
            reading.turn(speaker, text[speaker_end : match.start()], start, seconds)
            start, begin = None, match.end(1) + 1
            if not match[2]:
                continue
            reading.odd("turns without an end, which end at the next start", match[0])
        start, speaker = seconds, None
        begin = speaker_end = match.end()
        if match[2]:
            speaker = match[2][1:-1]
    if start is None:
        _rest(reading, text[begin:])
    else:
        reading.odd(CUT)
        reading.turn(speaker, text[speaker_end:], start)
    return reading.result()


def _rest(reading: Reading, piece: str) -> None:
    """Add text between turns; after a speaker it is a turn without times."""
    match = _SPEAKER.match(piece.strip())
    if match is None:
        reading.loose(piece)
        return
    reading.odd("turns without times", piece.strip())
    reading.turn(match[1], piece.strip()[match.end() :])


def sniff(text: str) -> bool:
    """Whether a time is followed by a speaker."""
    return _MARKS.search(text) is not None
