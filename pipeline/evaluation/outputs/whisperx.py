"""WhisperX: JSON with ``segments``, whose speakers are ``SPEAKER_00``, ``SPEAKER_01`` …"""

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
    ignored=("words", "language", "chars", "avg_logprob", "id"),
    not_turns=("word_segments",),
)
_MARKS = re.compile(r'"speaker"\s*:\s*"SPEAKER_\d+"')


def parse(session: str, text: str) -> tuple[Rows, Notes]:
    """Read the segments; the words of each, which repeat its text, are ignored."""
    return json_turns(session, text, KEYS)


def sniff(text: str) -> bool:
    """Whether it has segments, and such a speaker or the list of words."""
    lists = '"segments"' in text and '"text"' in text
    return lists and (_MARKS.search(text) is not None or '"word_segments"' in text)
