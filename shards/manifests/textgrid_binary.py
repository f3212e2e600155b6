"""Praat TextGrid files in the binary form, turned into the short text form.

Praat's manual names the form and does not describe it; this follows what Praat 6 writes. Numbers are big-endian: times
are doubles, counts 32-bit integers. A class name follows its length in a byte. Any other string follows its length in
16 bits: one byte per character, or, after 0xFFFF, its length again and UTF-16, where a pair of surrogates counts one.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator

MAGIC = b"ooBinaryFile"
_WIDE = 0xFFFF


def as_short_text(data: bytes) -> str:
    """Return the file as Praat's "short text file".

    Raises:
        ValueError: it is truncated or not a TextGrid.
    """
    try:
        return "\n".join(_lines(_Cursor(data)))
    except (struct.error, IndexError) as error:
        raise ValueError("the binary file is truncated") from error


class _Cursor:
    """Values of the file, consumed in order."""

    def __init__(self, data: bytes) -> None:
        self._data, self.at = data, len(MAGIC)

    def take(self, count: int) -> bytes:
        found = self._data[self.at : self.at + count]
        if len(found) < count:
            raise IndexError
        self.at += count
        return found

    def number(self, form: str) -> int | float:
        value: int | float = struct.unpack_from(f">{form}", self._data, self.at)[0]
        self.at += struct.calcsize(form)
        return value

    def times(self, count: int) -> list[str]:
        return [repr(self.number("d")) for _ in range(count)]

    def count(self) -> int:
        return int(self.number("i"))

    def class_name(self) -> str:
        return self.take(int(self.number("B"))).decode("ascii")

    def string(self) -> str:
        length = int(self.number("H"))
        if length == _WIDE:
            text = b"".join(self._character() for _ in range(int(self.number("H")))).decode("utf-16-be")
        else:
            text = self.take(length).decode("latin-1")
        return _quoted(text)

    def _character(self) -> bytes:
        unit = self.take(2)
        return unit + self.take(2) if 0xD8 <= unit[0] <= 0xDB else unit

    def end(self) -> None:
        if self.at != len(self._data):
            raise ValueError(f"{len(self._data) - self.at} bytes follow the last tier")


def _lines(cursor: _Cursor) -> Iterator[str]:
    yield from ('File type = "ooTextFile"', f"Object class = {_quoted(cursor.class_name())}", *cursor.times(2))
    if not cursor.number("B"):
        yield "<absent>"
        return
    tiers = cursor.count()
    yield from ("<exists>", str(tiers))
    for _ in range(tiers):
        kind = cursor.class_name()
        times = {"IntervalTier": 2, "TextTier": 1}.get(kind)
        if times is None:
            raise ValueError(f"a tier has the unknown class {kind!r}")
        yield from (_quoted(kind), cursor.string(), *cursor.times(2))
        size = cursor.count()
        yield str(size)
        for _ in range(size):
            yield from (*cursor.times(times), cursor.string())
    cursor.end()


def _quoted(text: str) -> str:
    return '"' + text.replace('"', '""') + '"'
