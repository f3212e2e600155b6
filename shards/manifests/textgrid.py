"""Praat TextGrid files: names, marks and times of interval tiers, unchanged.

By Praat's definition (manual, "TextGrid file formats") only free-standing numbers, strings in double quotes and flags
in angle brackets are data; everything else is a comment. This makes the long and the short format one. Nothing is
repaired here: negative and reversed times are returned unchanged. A truncated or malformed file is an error, while
readers that match line patterns return fewer or different intervals.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from shards.errors import ManifestError
from shards.manifests.text_files import read_text

_TOKEN = re.compile(
    r'"(?P<text>(?:[^"]|"")*)"(?=[\s!]|$)'  # a doubled quote is an escaped quote
    r"|(?<!\S)(?P<number>[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?)(?=\s|$)"
    r"|(?<!\S)<(?P<flag>\w+)>(?=\s|$)"
    r"|(?<!\S)!(?P<comment>[^\n]*)"
)
_INTERVALS, _POINTS = "IntervalTier", "TextTier"


@dataclass(frozen=True, slots=True)
class Interval:
    """An interval of a tier; times in seconds as written."""

    start: float
    end: float
    mark: str


@dataclass(frozen=True, slots=True)
class Tier:
    """An interval tier, usually one speaker."""

    name: str
    intervals: tuple[Interval, ...]


def read_textgrid(path: Path) -> list[Tier]:
    """Read the interval tiers in file order, without point tiers. White space in marks is collapsed.

    Raises:
        ManifestError: not a TextGrid, or a truncated one.
    """
    try:
        return list(_tiers(_Tokens(read_text(path))))
    except (_UnexpectedTokenError, ValueError) as error:
        raise ManifestError(f"{path}: invalid TextGrid: {error}") from error


class _UnexpectedTokenError(Exception):
    """The next token is missing or of another kind."""


class _Tokens:
    """Tokens of a TextGrid, consumed in order."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._found = _tokens(text)

    def next(self, kind: str, what: str) -> str:
        """Return the next token, which must be of this kind."""
        try:
            found, value, place = next(self._found)
        except StopIteration:
            raise _UnexpectedTokenError(f"the file ends, expected {what}") from None
        if found != kind:
            line = self._text.count("\n", 0, place) + 1
            raise _UnexpectedTokenError(f"line {line}: expected {what}, found the {found} {value[:40]!r}")
        return value

    def number(self, what: str) -> float:
        return float(self.next("number", what))

    def count(self, what: str) -> int:
        value = self.number(what)
        if value < 0 or not value.is_integer():
            raise _UnexpectedTokenError(f"{what} is {value:g}")
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
        raise _UnexpectedTokenError("the header is not that of a TextGrid")
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
            raise _UnexpectedTokenError(f"tier {name!r} has the unknown class {kind!r}")


def _interval(tokens: _Tokens, tier: str, number: int) -> Interval:
    where = f"of interval {number} of tier {tier!r}"
    start, end = tokens.number(f"the start {where}"), tokens.number(f"the end {where}")
    return Interval(start, end, " ".join(tokens.text(f"the mark {where}").replace("\ufeff", "").split()))


NON_SPEAKER_TIERS = {"", "sil", "silence", "noise", "overlap", "comment", "comments", "note", "notes"}
