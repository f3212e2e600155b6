"""Decoding with options and a place among the processes as keywords."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pipeline.decode.store import Timing
from pipeline.decode.test_set import DecodeOptions, decode


def decode_with(run: Path, url: str | Path, out: Path, **settings: Any) -> dict[str, Timing] | None:
    """Decode with the settings of DecodeOptions; ``rank`` and ``world`` are those of the process."""
    place = {name: settings.pop(name) for name in ("rank", "world") if name in settings}
    return decode(run, str(url), out, DecodeOptions(**settings), **place)
