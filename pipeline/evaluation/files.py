"""Text and JSON Lines files, with errors that name file and line."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from shards.errors import ScoreError


def read_text(path: Path) -> str:
    """Read a UTF-8 file; a leading byte order mark is skipped.

    Raises:
        ScoreError: it cannot be read, or is not UTF-8.
    """
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as e:
        raise ScoreError(f"{path}: not UTF-8 (byte {e.start}); convert it first") from e
    except OSError as e:
        raise ScoreError(f"{path}: cannot be read ({e.strerror})") from e


def numbered_lines(path: Path) -> Iterator[tuple[int, str]]:
    """Yield (line number from 1, line) for each line that is neither empty nor a comment (``;``)."""
    for number, line in enumerate(read_text(path).split("\n"), 1):
        if line.strip() and not line.lstrip().startswith(";"):
            yield number, line.rstrip("\r")


def read_json(path: Path) -> Any:
    """Read a JSON file.

    Raises:
        ScoreError: it cannot be read, or is not JSON.
    """
    try:
        return json.loads(read_text(path))
    except (ValueError, RecursionError) as e:
        raise ScoreError(f"{path}: not JSON ({e})") from e


def json_lines(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield (``FILE:LINE``, object) for each line that is not blank.

    Lines end at a line feed only: ``str.splitlines`` would also cut at U+2028 and U+0085, which JSON strings may hold.

    Raises:
        ScoreError: a line is not a JSON object.
    """
    for number, line in enumerate(read_text(path).split("\n"), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as e:
            raise ScoreError(f"{path}:{number}: not JSON ({e})") from e
        if not isinstance(row, dict):
            raise ScoreError(f"{path}:{number}: not a JSON object")
        yield f"{path}:{number}", row


def seconds(value: object, where: str) -> float | None:
    """Convert a time to float; ``None`` stays ``None``.

    Raises:
        ScoreError: it is not a finite number.
    """
    if value is None:
        return None
    try:
        number = math.nan if isinstance(value, bool) else float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError, OverflowError) as e:
        raise ScoreError(f"{where}: {value!r} is not a time in seconds") from e
    if not math.isfinite(number):
        raise ScoreError(f"{where}: {value!r} is not a time in seconds")
    return number


def file_session(path: Path, suffixes: Sequence[str]) -> str:
    """Return the session that a file is named after: its name without the suffix of the format."""
    suffix = max((s for s in suffixes if path.name.lower().endswith(s)), key=len, default=path.suffix)
    return path.name[: len(path.name) - len(suffix)]


def captions(path: Path, times: re.Pattern[str]) -> Iterator[tuple[float, float, list[str]]]:
    """Yield (start, end, lines of text) for each caption of an SRT or VTT file.

    ``times`` matches a line of times and has four groups for each of them: hours, minutes, seconds, milliseconds.

    Raises:
        ScoreError: text outside a caption that is neither a number nor a header or note; names the line.
    """
    lines = [line.rstrip("\r") for line in read_text(path).split("\n")]
    blocks: list[list[tuple[int, str]]] = [[]]
    for number, line in enumerate(lines, 1):
        if line.strip():
            blocks[-1].append((number, line))
        elif blocks[-1]:
            blocks.append([])
    for block in filter(None, blocks):
        at = next((i for i, (_, line) in enumerate(block[:2]) if times.fullmatch(line.strip())), None)
        if at is None:
            if re.match(r"(WEBVTT|NOTE|STYLE|REGION)\b", block[0][1]):
                continue
            raise ScoreError(f"{path}:{block[0][0]}: no times of a caption: {block[0][1].strip()[:80]!r}")
        found = times.fullmatch(block[at][1].strip())
        assert found is not None
        start, end = (_clock(found.groups()[i : i + 4]) for i in (0, 4))
        yield start, end, [line for _, line in block[at + 1 :]]


def _clock(parts: Sequence[str | None]) -> float:
    hours, minutes, whole, fraction = (p or "0" for p in parts)
    return round(int(hours) * 3600 + int(minutes) * 60 + int(whole) + int(fraction) / 10 ** len(fraction), 3)
