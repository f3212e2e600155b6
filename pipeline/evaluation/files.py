"""Files as text and as JSON Lines, with errors that name the place."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from shards.errors import ScoreError


def read_text(path: Path) -> str:
    """A UTF-8 file, a leading byte order mark passed over.

    Raises:
        ScoreError: it cannot be read, or is not UTF-8.
    """
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as e:
        raise ScoreError(f"{path}: not UTF-8 (byte {e.start}); convert it first") from e
    except OSError as e:
        raise ScoreError(f"{path}: cannot be read ({e.strerror})") from e


def read_json(path: Path) -> Any:
    """A JSON file.

    Raises:
        ScoreError: it cannot be read, or is not JSON.
    """
    try:
        return json.loads(read_text(path))
    except (ValueError, RecursionError) as e:
        raise ScoreError(f"{path}: not JSON ({e})") from e


def json_lines(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """(``FILE:LINE``, object) of every line that is not blank.

    Lines end at a line feed only: ``str.splitlines`` would also cut at U+2028 and U+0085, which JSON strings may hold.

    Raises:
        ScoreError: a line is no JSON object.
    """
    for number, line in enumerate(read_text(path).split("\n"), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as e:
            raise ScoreError(f"{path}:{number}: not JSON ({e})") from e
        if not isinstance(row, dict):
            raise ScoreError(f"{path}:{number}: no JSON object")
        yield f"{path}:{number}", row


def seconds(value: object, where: str) -> float | None:
    """A time; ``None`` stays.

    Raises:
        ScoreError: it is no finite number.
    """
    if value is None:
        return None
    try:
        number = float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError) as e:
        raise ScoreError(f"{where}: {value!r} is no time") from e
    if not math.isfinite(number):
        raise ScoreError(f"{where}: {value!r} is no time")
    return number
