"""Text and JSON Lines files, with errors that name file and line."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
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
        number = float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError) as e:
        raise ScoreError(f"{where}: {value!r} is not a time in seconds") from e
    if not math.isfinite(number):
        raise ScoreError(f"{where}: {value!r} is not a time in seconds")
    return number
