"""FunASR: ``sentence_info`` of its result, times in milliseconds, speakers are numbers."""

from __future__ import annotations

from pipeline.evaluation.output_json import TurnKeys, json_turns
from pipeline.evaluation.output_reading import Notes, Rows

KEYS = TurnKeys(
    text=("text", "sentence"),
    start=("start",),
    end=("end",),
    speaker=("spk",),
    inside=("sentence_info",),
    ignored=("timestamp", "key", "raw_text", "words"),
    unit=0.001,
)


def parse(session: str, text: str) -> tuple[Rows, Notes]:
    """Read the sentences."""
    return json_turns(session, text, KEYS)


def sniff(text: str) -> bool:
    """Whether it has the list."""
    return '"sentence_info"' in text
