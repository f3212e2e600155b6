"""Text files of corpora: UTF-8, UTF-8 or UTF-16 with a byte order mark, any line ends."""

from __future__ import annotations

import bz2
import codecs
import gzip
import io
import lzma
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO, cast

from shards.errors import ManifestError
from shards.sample import gender_of

_MARKS = (  # UTF-32 first: its marks start with those of UTF-16
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
    (codecs.BOM_UTF8, "utf-8-sig"),
)
_MAGIC = {b"\x1f\x8b": "gzip", b"BZh": "bzip2", b"\xfd7zXZ\0": "xz"}
_OPENERS: dict[str, Callable[[BinaryIO], Any]] = {
    "gzip": lambda file: gzip.GzipFile(fileobj=file),
    "bzip2": bz2.BZ2File,
    "xz": lzma.LZMAFile,
}
COMPRESSED = (".gz", ".bz2", ".xz")  # suffixes of these


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
    try:
        text = data.decode(_encoding(data[:4]))
    except UnicodeDecodeError as error:
        raise _not_text(path, error) from error
    return text.replace("\r\n", "\n").replace("\r", "\n").removeprefix("\ufeff")


def read_lines(path: Path) -> Iterator[str]:
    """Yield the lines of a file of any size without their ends, in the encodings of :func:`read_text`.

    Files that are compressed by gzip, bzip2 or xz are unpacked. A byte that is not UTF-8 spoils its line alone: there
    it is a lone surrogate.

    Raises:
        ManifestError: the file is missing or not the UTF-16 that it seems, or the compressed stream is damaged.
    """
    try:
        with path.open("rb") as packed:
            kind = _compression(packed.read(6))
            packed.seek(0)
            file = cast(BinaryIO, _OPENERS[kind](packed)) if kind else packed
            start = file.read(4)
            file.seek(0)
            first = True
            encoding = _encoding(start)
            for line in io.TextIOWrapper(file, encoding, "surrogateescape" if "utf-8" in encoding else "strict"):
                yield line.removeprefix("\ufeff" if first else "").removesuffix("\n")
                first = False
    except UnicodeDecodeError as error:
        raise _not_text(path, error) from error
    except (EOFError, gzip.BadGzipFile, zlib.error, lzma.LZMAError) as error:
        raise ManifestError(f"{path}: truncated or damaged {kind} file ({error}); copy it again") from error
    except OSError as error:
        if error.strerror is None:  # bz2's
            raise ManifestError(f"{path}: truncated or damaged {kind} file ({error}); copy it again") from error
        raise ManifestError(f"{path}: {error.strerror}") from error


def _compression(start: bytes) -> str:
    """Return the compression of a file that begins with these six bytes; "" for none."""
    return next((kind for magic, kind in _MAGIC.items() if start.startswith(magic)), "")


def _encoding(start: bytes) -> str:
    """Return the encoding of a file that begins with these four bytes."""
    found = next((name for mark, name in _MARKS if start.startswith(mark)), None)
    if found is None and len(start) >= 4 and 0 in start:
        return "utf-16-be" if start[0] == 0 else "utf-16-le"
    return found or "utf-8"


def _not_text(path: Path, error: UnicodeDecodeError) -> ManifestError:
    return ManifestError(f"{path}: neither UTF-8 nor UTF-16 ({error}); convert it, for example by iconv")


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


def read_genders_of(path: Path) -> dict[str, str]:
    """Read speaker → f or m from a corpus's lines ``SPEAKER … GENDER …``; empty if there is no such file.

    Fields are separated by white space; the gender is the first that states one (``F``, ``male``, ``女``).
    """
    if not path.is_file():
        return {}
    rows = ((speaker, filter(None, map(gender_of, rest.split()))) for _, speaker, rest in keyed_lines(path))
    return {speaker: gender[0] for speaker, genders in rows if (gender := next(genders, None))}


def keyed_lines(path: Path) -> Iterator[tuple[int, str, str]]:
    """Yield (line number, first word, stripped rest) of every non-empty line."""
    for number, line in enumerate(read_text(path).split("\n"), 1):
        if line.strip():
            key, *rest = line.strip().split(maxsplit=1)
            yield number, key, rest[0].strip() if rest else ""
