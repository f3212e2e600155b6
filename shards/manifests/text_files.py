"""Text files of corpora: UTF-8, UTF-8 or UTF-16 with a byte order mark, any line ends."""

from __future__ import annotations

import codecs
from collections.abc import Iterator
from pathlib import Path

from shards.errors import ManifestError

_MARKS = (  # UTF-32 first: its marks start with those of UTF-16
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
    (codecs.BOM_UTF8, "utf-8-sig"),
)


def read_text(path: Path) -> str:
    """Read a file without its byte order mark and with line feeds only.

    UTF-16 without a mark, which Praat can write, is recognized by its zero bytes.

    Raises:
        ManifestError: the file is missing, or its encoding is neither UTF-8 nor UTF-16.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ManifestError(f"{path}: {error.strerror}") from error
    encoding = next((name for mark, name in _MARKS if data.startswith(mark)), None)
    if encoding is None and len(data) >= 4 and 0 in data[:4]:
        encoding = "utf-16-be" if data[0] == 0 else "utf-16-le"
    try:
        text = data.decode(encoding or "utf-8")
    except UnicodeDecodeError as error:
        raise ManifestError(f"{path}: neither UTF-8 nor UTF-16 ({error}); convert it, for example by iconv") from error
    return text.replace("\r\n", "\n").replace("\r", "\n").removeprefix("\ufeff")


def read_table(path: Path) -> dict[str, str]:
    """Read lines ``key value…`` into a dictionary in file order; a line with a key only has the value "".

    Raises:
        ManifestError: a key occurs twice with different values.
    """
    rows: dict[str, str] = {}
    for number, key, rest in keyed_lines(path):
        if rows.setdefault(key, rest) != rest:
            raise ManifestError(f"{path}:{number}: {key} occurs twice with different values; remove one")
    return rows


def keyed_lines(path: Path) -> Iterator[tuple[int, str, str]]:
    """Yield (line number, first word, stripped rest) of every non-empty line."""
    for number, line in enumerate(read_text(path).split("\n"), 1):
        if line.strip():
            key, *rest = line.strip().split(maxsplit=1)
            yield number, key, rest[0].strip() if rest else ""
