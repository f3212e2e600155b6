"""SoulX-Transcriber: lines ``[00:01.200 --> 00:03.450] Speaker 1: text``, with hours or without."""

from __future__ import annotations

import re

from pipeline.evaluation.output_reading import Notes, Reading, Rows, clock, without_fences

_TIME = r"(?:\d{1,9}:)?\d{1,9}:\d{1,9}[.,]?\d{0,6}"
_LINE = re.compile(rf"\s*\[({_TIME})\s*-->\s*({_TIME})\]\s*(?:([^:\n]{{1,64}}):)?(.*)", re.DOTALL)
_MARKS = re.compile(rf"^[^\S\n]*\[{_TIME}\s*-->\s*{_TIME}\]", re.MULTILINE)


def parse(session: str, text: str) -> tuple[Rows, Notes]:
    """Read the lines."""
    reading = Reading(session)
    for line in without_fences(text).split("\n"):
        match = _LINE.fullmatch(line)
        if match is None:
            reading.loose(line)
        else:
            reading.turn(match[3], match[4], clock(match[1]), clock(match[2]))
    return reading.result()


def sniff(text: str) -> bool:
    """Whether a line begins with two times and an arrow in brackets."""
    return _MARKS.search(text) is not None
