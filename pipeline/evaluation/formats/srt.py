"""SubRip captions (SRT)."""

from __future__ import annotations

from collections.abc import Sequence

from pipeline.evaluation.records import SegLstRow, one_line, times_of

WRITES = ".srt"


def dumps(rows: Sequence[SegLstRow]) -> str:
    """Return rows as numbered captions in order of time.

    Raises:
        ScoreError: a row has no times.
    """
    blocks = []
    for i, r in enumerate(sorted(rows, key=lambda r: times_of(r, "SRT")), 1):
        start, end = times_of(r, "SRT")
        text = f"{one_line(r.speaker)}: {one_line(r.text)}" if r.speaker else one_line(r.text)
        blocks.append(f"{i}\n{timestamp(start, ',')} --> {timestamp(end, ',')}\n{text}\n")
    return "\n".join(blocks)


def timestamp(seconds: float, point: str) -> str:
    """Return ``00:01:02,345``."""
    total = round(max(0.0, seconds) * 1000)  # captions cannot begin before the recording
    return f"{total // 3_600_000:02d}:{total // 60_000 % 60:02d}:{total // 1000 % 60:02d}{point}{total % 1000:03d}"
