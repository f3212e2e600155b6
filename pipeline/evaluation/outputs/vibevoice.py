"""VibeVoice-ASR: a JSON list of Start, End, Speaker and Content; the speaker is absent if no speaker was heard."""

from __future__ import annotations

import re

from pipeline.evaluation.output_json import TurnKeys, json_turns
from pipeline.evaluation.output_reading import Notes, Rows

KEYS = TurnKeys(
    text=("content",),
    start=("start", "start time", "start_time"),
    end=("end", "end time", "end_time"),
    speaker=("speaker", "speaker id", "speaker_id"),
)
_MARKS = re.compile(r'\{\s*"Start(?: time)?"\s*:')


def parse(session: str, text: str) -> tuple[Rows, Notes]:
    """Read the list; speakers are numbers as text."""
    return json_turns(session, text, KEYS)


def sniff(text: str) -> bool:
    """Whether an object begins with a capitalised start."""
    return _MARKS.search(text) is not None
