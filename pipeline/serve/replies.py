"""Answers in the formats of OpenAI's transcription API, and the events of a streamed answer.

Words and turns are given, log probabilities are not: those fields are null. ``json`` holds the words alone, ``text``
one line per turn with the speaker before it. Warnings are a further field of the JSON formats, and a header of others.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Any

from pipeline.evaluation.formats import dumps
from pipeline.evaluation.records import NO_NAME, SegLstRow, in_time_order
from pipeline.transcribe.transcript import Transcript, TranscriptTurn

FORMATS = ("json", "text", "srt", "verbose_json", "vtt", "diarized_json")
NAMED = ("diarized_json",)  # formats that are nothing without names
STREAMED = ("json", "diarized_json")
WARNINGS = "X-SpeakerLM-Warnings"  # a JSON list in ASCII
MEDIA = {"srt": "application/x-subrip", "vtt": "text/vtt", "text": "text/plain"}


def words(turns: Sequence[TranscriptTurn]) -> str:
    """Return the words of turns without their speakers."""
    return " ".join(" ".join(t.text.split()) for t in turns)


def segment(turn: TranscriptTurn, number: int) -> dict[str, Any]:
    """Return a turn as a segment of ``diarized_json``, and as an event of a streamed answer."""
    return {
        "type": "transcript.text.segment",
        "id": f"seg_{number}",
        "start": turn.start,
        "end": turn.end,
        "speaker": turn.speaker or NO_NAME,
        "text": turn.text,
    }


def usage(transcript: Transcript) -> dict[str, Any]:
    """Return the seconds of audio."""
    return {"type": "duration", "seconds": transcript.seconds}


def render(transcript: Transcript, kind: str, language: str | None) -> tuple[str, str]:
    """Return the body and media type of an answer."""
    turns = transcript.turns
    if kind in MEDIA:
        return _plain(turns, kind), f"{MEDIA[kind]}; charset=utf-8"
    body: dict[str, Any] = {"text": words(turns)}
    if kind != "json":
        body |= {"task": "transcribe", "duration": transcript.seconds}
    if kind == "diarized_json":
        body["segments"] = [segment(t, i) for i, t in enumerate(turns)]
    elif kind == "verbose_json":
        body |= {"language": language or "und", "words": None}
        body["segments"] = [_verbose(t, i) for i, t in enumerate(turns)]
    body["usage"] = usage(transcript)
    if transcript.warnings:
        body["warnings"] = transcript.warnings
    return json.dumps(body, ensure_ascii=False), "application/json"


def warnings_header(warnings: Sequence[str]) -> dict[str, str]:
    """Return the header that holds warnings."""
    return {WARNINGS: json.dumps(list(warnings))} if warnings else {}


def _plain(turns: Sequence[TranscriptTurn], kind: str) -> str:
    if kind == "text":
        return "".join(f"{t.speaker}: {words([t])}\n" if t.speaker else f"{words([t])}\n" for t in turns)
    return dumps(in_time_order([SegLstRow("audio", t.speaker, t.text, t.start, t.end) for t in turns]), kind)


def _verbose(turn: TranscriptTurn, number: int) -> dict[str, Any]:
    unknown = dict.fromkeys(("tokens", "avg_logprob", "compression_ratio", "no_speech_prob"))
    return {
        "id": number, "seek": 0, "start": turn.start, "end": turn.end, "text": turn.text, "speaker": turn.speaker,
        "temperature": 0.0, **unknown,
    }  # fmt: skip


class Events:
    """Events of a streamed answer, by chunk: deltas that add up to the text, and segments if they are asked for."""

    def __init__(self, segments: bool) -> None:
        """Begin an answer."""
        self._segments = segments
        self.sent = 0  # turns

    def of(self, transcript: Transcript) -> Iterator[dict[str, Any]]:
        """Yield the events of the turns that are new."""
        turns = transcript.turns
        for number in range(self.sent, len(turns)):
            turn = turns[number]
            delta = (" " if number else "") + words([turn])
            event = {"type": "transcript.text.delta", "delta": delta}
            if self._segments:
                yield event | {"segment_id": f"seg_{number}"}
                yield segment(turn, number)
            else:
                yield event
        self.sent = len(turns)


def done(transcript: Transcript) -> dict[str, Any]:
    """Return the last event of a streamed answer."""
    event = {"type": "transcript.text.done", "text": words(transcript.turns), "usage": usage(transcript)}
    return event | ({"warnings": transcript.warnings} if transcript.warnings else {})
