"""WebVTT captions with voice tags."""

from __future__ import annotations

from collections.abc import Sequence

from pipeline.evaluation.formats.srt import timestamp
from pipeline.evaluation.records import SegLstRow, one_line, times_of

WRITES = ".vtt"


def dumps(rows: Sequence[SegLstRow]) -> str:
    """Return rows as captions in order of time.

    Raises:
        ScoreError: a row has no times.
    """
    blocks = ["WEBVTT\n"]
    for r in sorted(rows, key=lambda r: times_of(r, "VTT")):
        start, end = times_of(r, "VTT")
        voice = f"<v {_escape(one_line(r.speaker))}>" if r.speaker else ""
        text = voice + _escape(one_line(r.text))
        blocks.append(f"{timestamp(start, '.')} --> {timestamp(end, '.')}\n{text}\n")
    return "\n".join(blocks)


def _escape(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
