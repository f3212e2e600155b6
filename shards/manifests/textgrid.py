"""Praat TextGrid files: names, marks and times of interval tiers, unchanged.

By Praat's definition (manual, "TextGrid file formats") only free-standing numbers, strings in double quotes and flags
in angle brackets are data; everything else is a comment. This makes the long and the short format one. Negative and
reversed times are returned unchanged. A truncated or malformed file is an error, while readers that match line patterns
return fewer or different intervals.

One fault is repaired, since tools write it and lines leave no doubt: quotes inside a mark that are not doubled, such as
``text = "she said "hi" to me"``. Nothing else that a mark could have lost is skipped: a quote outside a string,
words after a string and data after the last tier are errors.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from shards.errors import ManifestError
from shards.manifests.text_files import read_text
from shards.manifests.textgrid_binary import MAGIC, as_short_text

_TOKEN = re.compile(
    r'"(?P<text>(?:[^"]|"")*)"(?=[\s!]|$)'  # a doubled quote is an escaped quote
    r"|(?<!\S)(?P<number>[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?)(?=\s|$)"
    r"|(?<!\S)<(?P<flag>\w+)>(?=\s|$)"
    r"|(?<!\S)!(?P<comment>[^\n]*)"
)
_INTERVALS, _POINTS = "IntervalTier", "TextTier"
_WORDS_OF_THE_FORMAT = re.compile(
    r"(?:\s|[\[\]():=?\d]|\b(?:xmin|xmax|intervals|points|item|size|class|name|text|mark|number|time|value|tiers)\b)*"
    r"(?:!.*)?"
)
# A line whose string may have quotes inside, and a line that can follow a string: in the long form, in the short form.
_LONG_STRING = re.compile(r'\s*(?:text|mark|name)\s*=\s*"')
_LONG_NEXT = re.compile(
    r"\s*(?:(?:intervals|points|item)\s*[\[:]|(?:xmin|xmax|number|time|value|class|name|text|mark|size)\s*=)"
)
_SHORT_STRING = re.compile(r'\s*"')
_SHORT_NEXT = re.compile(rf'\s*(?:[-+\d.eE]+|"(?:{_INTERVALS}|{_POINTS})")\s*')
_STRING = re.compile(r'"(?:[^"]|"")*"\s*')


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
    text = ""
    try:
        text = _text(path)
        return _all_tiers(text)
    except (_UnexpectedTokenError, ValueError) as error:
        for first, following in ((_LONG_STRING, _LONG_NEXT), (_SHORT_STRING, _SHORT_NEXT)):
            with contextlib.suppress(_UnexpectedTokenError, ValueError):
                return _all_tiers(_quotes_doubled(text, first, following))
        raise ManifestError(f"{path}: invalid TextGrid: {error}") from error


def _text(path: Path) -> str:
    """Return the file in a text form."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ManifestError(f"{path}: {error.strerror}") from error
    return as_short_text(data) if data.startswith(MAGIC) else read_text(path)


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

    def end(self) -> None:
        """Check that no token is left."""
        for kind, value, place in self._found:
            line = self._text.count("\n", 0, place) + 1
            raise _UnexpectedTokenError(f"line {line}: the {kind} {value[:40]!r} follows the last tier")

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
    """Yield (kind, value, position).

    Raises:
        _UnexpectedTokenError: between two tokens is what may be a part of a mark.
    """
    kind, end = "", 0
    for match in _TOKEN.finditer(text):
        comment = match["comment"] or ""  # behind a string on its line, a quote in it may be the string's true end
        same_line = kind == "text" and text.find("\n", end, match.start()) < 0
        _check_gap(text, end, match.end() if same_line and '"' in comment else match.start(), after_text=kind == "text")
        kind, end = match.lastgroup or "", match.end()
        if kind != "comment":
            yield kind, match[kind].replace('""', '"') if kind == "text" else match[kind], match.start()
    _check_gap(text, end, len(text), after_text=kind == "text")


def _check_gap(text: str, start: int, end: int, *, after_text: bool) -> None:
    """Check what is between two tokens: comments hold no quote; behind a string they name the next value."""
    quote = text.find('"', start, end)
    line_end = text.find("\n", start, end)
    rest = text[start : end if line_end < 0 else line_end]
    if quote >= 0 or (after_text and not _WORDS_OF_THE_FORMAT.fullmatch(rest)):
        place = start if quote < 0 else quote
        line = text.count("\n", 0, place) + 1
        raise _UnexpectedTokenError(f"line {line}: a quote inside a text must be doubled, or a text ends too early")


def _quotes_doubled(text: str, first: re.Pattern[str], following: re.Pattern[str]) -> str:
    """Double the quotes inside strings that begin and end with a line.

    Args:
        first: the beginning of a line with a string.
        following: a line that can follow one. A string ends with the quote at the end of a line before such a line.
    """
    lines = text.split("\n")
    done: list[str] = []
    number = 0
    while number < len(lines):
        match = first.match(lines[number])
        last = None if match is None else _last_line(lines, number, match.end(), following)
        if match is None or last is None:
            done.append(lines[number])
            number += 1
            continue
        whole = "\n".join(lines[number : last + 1]).rstrip()[match.end() : -1]
        done.append(match[0] + whole.replace('""', '"').replace('"', '""') + '"')
        number = last + 1
    return "\n".join(done)


def _last_line(lines: Sequence[str], number: int, begin: int, following: re.Pattern[str]) -> int | None:
    """Return the line on which the string of line `number` ends; None if it needs no repair or has no end."""
    if _STRING.fullmatch(lines[number], begin - 1):
        return None
    for last in range(number, len(lines)):
        if last > number and following.match(lines[last]):
            return None
        content = lines[last].rstrip()
        if not content.endswith('"') or (last == number and len(content) <= begin):
            continue
        after = next((line for line in lines[last + 1 :] if line.strip()), None)
        if after is None or following.match(after):
            return last
    return None


def _all_tiers(text: str) -> list[Tier]:
    tokens = _Tokens(text)
    found = list(_tiers(tokens))
    tokens.end()
    return found


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
