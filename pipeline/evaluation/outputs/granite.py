"""Granite speech: ``[Speaker 1]: words``, without times."""

from __future__ import annotations

import re

from pipeline.evaluation.output_reading import Notes, Reading, Rows, pieces, without_fences

_LABEL = re.compile(r"\[(Speaker \d+)\]:?")


def parse(session: str, text: str) -> tuple[Rows, Notes]:
    """Read the turns; text before the first label has no speaker."""
    reading = Reading(session)
    speaker: str | None = None
    for before, match in pieces(text := without_fences(text), _LABEL.finditer(text)):
        if speaker is None:
            reading.loose(before)
        else:
            reading.turn(speaker, before)
        speaker = match[1] if match else None
    return reading.result()


def sniff(text: str) -> bool:
    """Whether a label in brackets has a colon."""
    return re.search(r"\[Speaker \d+\]:", text) is not None
