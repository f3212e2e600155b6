"""Reading of what other systems write: rows of one session, and notes that list what was not in the expected form.

No character is lost: what is not syntax of the format is in a row or, word for word, in a note.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator

from pipeline.evaluation.records import TIME_SLACK_S, SegLstRow
from pipeline.prompts import NOT_ON_ONE_LINE

Rows = tuple[SegLstRow, ...]
Notes = tuple[str, ...]

NUMBER = r"\d{1,12}(?:\.\d{0,20})?|\.\d{1,20}"  # of seconds; more digits are no time
CUT = "cut off before its end"

_SURROGATES = re.compile("[\ud800-\udfff]")
_FENCE = re.compile(r"^[ \t]*```[ \t]*(?:(?:json|xml|text|plaintext|txt)[ \t]*)?\r?$\n?", re.MULTILINE)
_CLOCK = re.compile(rf"(?:(?:(\d+):)?(\d+):)?({NUMBER}|\d+,\d+)")


class Reading:
    """Rows of a session in the order of the text, and what was odd."""

    def __init__(self, session: str) -> None:
        """Begin a session without rows."""
        self.session = session
        self.rows: list[SegLstRow] = []
        self._odd: dict[str, list[str]] = {}

    def turn(
        self,
        speaker: str | None,
        text: str,
        start: float | None = None,
        end: float | None = None,
        gender: str | None = None,
    ) -> None:
        """Add a turn. One that ends before its start ends at its start; a name of several lines becomes one line.

        A time that is not finite is noted, and the turn has none.
        """
        start, end = self._finite(start), self._finite(end)
        if start is not None and end is not None and end < start - TIME_SLACK_S:
            self.odd("turns that end before their start", f"{start:g} to {end:g}")
            end = start
        if speaker is not None and NOT_ON_ONE_LINE.search(speaker):
            self.odd("names with a line break or a control character", repr(speaker))
            speaker = NOT_ON_ONE_LINE.sub(" ", speaker)
        text = _SURROGATES.sub("\ufffd", text).strip()
        self.rows.append(SegLstRow(self.session, (speaker or "").strip() or None, text, start, end, gender))

    def _finite(self, seconds: float | None) -> float | None:
        if seconds is None or math.isfinite(seconds):
            return seconds
        self.odd("times that are not finite", f"{seconds:g}")
        return None

    def loose(self, piece: str) -> None:
        """Add text that does not parse as a row without speaker and times; white space is ignored."""
        if piece.strip():
            self.odd("pieces that do not parse", piece.strip())
            self.turn(None, piece)

    def odd(self, what: str, detail: str = "") -> None:
        """Note something."""
        self._odd.setdefault(what, []).append(_SURROGATES.sub("\ufffd", detail))

    def result(self) -> tuple[Rows, Notes]:
        """Return rows and notes; a note counts and lists its details."""
        notes = []
        for what, details in self._odd.items():
            listed = " | ".join(filter(None, details))
            notes.append(f"{what} ({len(details)}): {listed}" if listed else what)
        return tuple(self.rows), tuple(notes)


def without_fences(text: str) -> str:
    """Return a text without lines of three backquotes."""
    return _FENCE.sub("", text)


def pieces(text: str, found: Iterable[re.Match[str]]) -> Iterator[tuple[str, re.Match[str] | None]]:
    """Yield (text before a match, match) for each match, then (rest, None)."""
    at = 0
    for match in found:
        yield text[at : match.start()], match
        at = match.end()
    yield text[at:], None


def clock(value: object) -> float | None:
    """Return seconds of a number, or of text such as ``75.2``, ``1:15``, ``00:01:15,200``, ``75.2s``; else None."""
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        return None
    if isinstance(value, str):
        match = _CLOCK.fullmatch(value.strip().removesuffix("s"))
        if match is None or len(value) > 40:
            return None
        hours, minutes, rest = match.groups()
        value = int(hours or 0) * 3600 + int(minutes or 0) * 60 + float(rest.replace(",", "."))
    try:
        number = round(float(value), 6)
    except OverflowError:
        return None
    return number if math.isfinite(number) and number >= 0 else None
