"""Speaker-Reasoner: ``Male 1 [0.0, 1.08]: words`` in ``<answer>``, else in ``<think>``."""

from __future__ import annotations

import re

from pipeline.evaluation.output_reading import Notes, Reading, Rows
from pipeline.evaluation.reasoner_text import reasoner_rows

_MARKS = re.compile(r"<box>\s*\[|<(?:think|answer)>[^<]*?(?:Fem|M)ale \d+ \[")


def parse(session: str, text: str) -> tuple[Rows, Notes]:
    """Read a reply, or all replies of a dialogue one after the other; text without tags and lines is kept."""
    rows, notes = reasoner_rows(session, text)
    if rows or "<" in text or not text.strip():
        return rows, notes
    reading = Reading(session)
    reading.loose(text)
    return reading.result()


def sniff(text: str) -> bool:
    """Whether it has a box, or a labelled line in an answer or a thought."""
    return _MARKS.search(text) is not None
