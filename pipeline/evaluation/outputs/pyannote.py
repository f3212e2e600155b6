"""pyannote's JSON: turns without words under ``diarization``; ``exclusive_diarization`` is not read."""

from __future__ import annotations

from pipeline.evaluation.output_json import TurnKeys, json_turns
from pipeline.evaluation.output_reading import Notes, Rows

KEYS = TurnKeys(
    text=("text",),
    start=("start",),
    end=("end",),
    speaker=("speaker",),
    inside=("diarization",),
    ignored=("confidence",),
    not_turns=("exclusive_diarization",),
    wordless=True,
)


def parse(session: str, text: str) -> tuple[Rows, Notes]:
    """Read the turns, overlapping ones too."""
    return json_turns(session, text, KEYS)


def sniff(text: str) -> bool:
    """Whether it has the list."""
    return '"diarization"' in text
