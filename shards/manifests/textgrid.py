"""Praat TextGrid files: interval tiers with their names, marks and times as they are written.

Praat's own rule for its text files (manual, "TextGrid file formats") is that only free-standing numbers, texts in
double quotes and flags in angle brackets count; all else is decoration for people. Read so, the long and the short
form are one. Nothing is repaired here: a time that is negative or reversed comes back as it is, and a file that ends
early or does not keep to the form is an error, where readers that go by line patterns return fewer or other intervals.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from shards.errors import ManifestError
from shards.manifests.text_files import read_text

_TOKEN = re.compile(
    r'"(?P<text>(?:[^"]|"")*)"(?=[\s!]|$)'  # doubled quotes are one quote
    r"|(?<!\S)(?P<number>[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?)(?=\s|$)"
    r"|(?<!\S)<(?P<flag>\w+)>(?=\s|$)"
    r"|(?<!\S)!(?P<comment>[^\n]*)"
)
_INTERVALS, _POINTS = "IntervalTier", "TextTier"


@dataclass(frozen=True, slots=True)
class Interval:
    """One mark of a tier; seconds, as written."""

    start: float
    end: float
    mark: str


@dataclass(frozen=True, slots=True)
class Tier:
    """One interval tier, usually one speaker."""

    name: str
    intervals: tuple[Interval, ...]


def read_textgrid(path: Path) -> list[Tier]:
    """Interval tiers in the order of the file; tiers of points are left out. White space in marks becomes one space.

    Raises:
        ManifestError: not a TextGrid, or not a whole one.
    """
    try:
        return list(_tiers(_Tokens(read_text(path))))
    except (_NotThereError, ValueError) as error:
        raise ManifestError(f"{path}: not a TextGrid that can be read: {error}") from error


class _NotThereError(Exception):
    """What should come next does not."""


class _Tokens:
    """The tokens that count, one after the other."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._found = _tokens(text)

    def next(self, kind: str, what: str) -> str:
        """The next token, which must be of this kind."""
        try:
            found, value, place = next(self._found)
        except StopIteration:
            raise _NotThereError(f"it ends where {what} should come") from None
        if found != kind:
            line = self._text.count("\n", 0, place) + 1
            raise _NotThereError(f"line {line}: {what} should come, found the {found} {value[:40]!r}")
        return value

    def number(self, what: str) -> float:
        return float(self.next("number", what))

    def count(self, what: str) -> int:
        value = self.number(what)
        if value < 0 or not value.is_integer():
            raise _NotThereError(f"{what} is {value:g}")
        return int(value)

    def text(self, what: str) -> str:
        return self.next("text", what)


def _tokens(text: str) -> Iterator[tuple[str, str, int]]:
    for match in _TOKEN.finditer(text):
        kind = match.lastgroup or ""
        if kind != "comment":
            yield kind, match[kind].replace('""', '"') if kind == "text" else match[kind], match.start()


def _tiers(tokens: _Tokens) -> Iterator[Tier]:
    if tokens.text("the file type") != "ooTextFile" or tokens.text("the object class") != "TextGrid":
        raise _NotThereError("it does not begin as one")
    tokens.number("the start"), tokens.number("the end")
    if tokens.next("flag", "<exists>") != "exists":
        return
    for number in range(1, tokens.count("the number of tiers") + 1):
        kind, name = tokens.text(f"the class of tier {number}"), tokens.text(f"the name of tier {number}")
        tokens.number("the tier's start"), tokens.number("the tier's end")
        size = tokens.count(f"the size of tier {name!r}")
        if kind == _POINTS:
            for _ in range(size):
                tokens.number("a point"), tokens.text("its mark")
        elif kind == _INTERVALS:
            yield Tier(name.strip(), tuple(_interval(tokens, name, i + 1) for i in range(size)))
        else:
            raise _NotThereError(f"tier {name!r} is a {kind!r}")


def _interval(tokens: _Tokens, tier: str, number: int) -> Interval:
    where = f"of interval {number} of tier {tier!r}"
    start, end = tokens.number(f"the start {where}"), tokens.number(f"the end {where}")
    return Interval(start, end, " ".join(tokens.text(f"the mark {where}").replace("\ufeff", "").split()))


NON_SPEAKER_TIERS = {"", "sil", "silence", "noise", "overlap", "comment", "comments", "note", "notes"}
