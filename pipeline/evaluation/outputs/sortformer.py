"""Sortformer of NeMo: ``start end speaker_0``, one string per turn, without words."""

from __future__ import annotations

import re

from pipeline.evaluation.output_reading import NUMBER, Notes, Reading, Rows, clock, pieces, without_fences

_TURN = re.compile(rf"(?<![\w.])({NUMBER})[ \t,]+({NUMBER})[ \t,]+(speaker_\d+)(?!\w)")
_SYNTAX = re.compile(r"[\s\[\],'\"]*")


def parse(session: str, text: str) -> tuple[Rows, Notes]:
    """Read the turns, from lines or from a list of strings."""
    reading = Reading(session)
    for before, match in pieces(text := without_fences(text), _TURN.finditer(text)):
        if not _SYNTAX.fullmatch(before):
            reading.loose(before)
        if match:
            reading.turn(match[3], "", clock(match[1]), clock(match[2]))
    return reading.result()


def sniff(text: str) -> bool:
    """Whether it begins with a turn."""
    return re.match(rf"[\s\[\]'\"]*(?:{NUMBER})[ \t]+(?:{NUMBER})[ \t]+speaker_\d", text) is not None
