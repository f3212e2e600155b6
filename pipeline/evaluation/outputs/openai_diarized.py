"""OpenAI's ``diarized_json`` (gpt-4o-transcribe-diarize, and servers that speak its protocol)."""

from __future__ import annotations

import re

from pipeline.evaluation.output_json import TurnKeys, json_turns
from pipeline.evaluation.output_reading import Notes, Rows

KEYS = TurnKeys(
    text=("text",),
    start=("start",),
    end=("end",),
    speaker=("speaker",),
    inside=("segments",),
    ignored=("type", "id", "task", "duration", "usage", "language", "logprobs", "model"),
)
_MARKS = re.compile(r'"type"\s*:\s*"transcript\.text\.segment"|"task"\s*:\s*"transcribe"')


def parse(session: str, text: str) -> tuple[Rows, Notes]:
    """Read the segments; speakers are letters, or names of references."""
    return json_turns(session, text, KEYS)


def sniff(text: str) -> bool:
    """Whether its segments or its head say so."""
    return _MARKS.search(text) is not None
