"""Transcript records: turns, chunks, and the whole recording."""

from __future__ import annotations

from dataclasses import dataclass, field

from pipeline.decode.generate import Answer

TIMES, LONGEST = 5, 200  # least repetitions of a loop, and its most characters


@dataclass(frozen=True)
class TranscriptTurn:
    """A turn of one speaker. Times are in seconds from the start of the recording."""

    speaker: str | None  # None: text without a speaker
    start: float
    end: float
    text: str
    chunk: int
    written: str | None = None  # the model's label of the speaker
    similarity: float | None = None  # cosine to the person, if named by voice


@dataclass(frozen=True)
class ChunkResult:
    """A chunk: its times, the model's text, and the turns in it."""

    number: int
    start: float
    end: float
    raw: str
    stop: str
    turns: tuple[TranscriptTurn, ...]
    notes: tuple[str, ...] = ()


@dataclass
class Transcript:
    """Transcript of a recording, or of its readable part."""

    audio: str
    model: str
    names: tuple[str, ...] = ()  # enrolled
    seconds: float = 0.0  # read so far
    speech: float = 0.0  # of them in chunks
    chunks: list[ChunkResult] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    error: str | None = None  # why it is incomplete
    times: str = "estimated"  # "model" if the model wrote them

    @property
    def turns(self) -> list[TranscriptTurn]:
        """Turns of all chunks, in order of time."""
        return [t for c in self.chunks for t in c.turns]

    @property
    def speakers(self) -> list[str]:
        """Names by first appearance."""
        return list(dict.fromkeys(t.speaker for t in self.turns if t.speaker is not None))


def readable(answer: Answer) -> tuple[str, tuple[str, ...]]:
    """Return an answer's text with the loop at its end written once, and notes on the guard that ended it."""
    if answer.stop == "end":
        return answer.text, ()
    if answer.stop == "limit":
        return answer.text, ("stopped at the token limit for its audio",)
    return _once(answer.text), ("stopped in a loop",)


def _once(text: str) -> str:
    """Return the text with a run of characters that repeats at its end written once."""
    for period in range(1, min(LONGEST, len(text) // TIMES) + 1):
        begin = len(text)
        while begin > period and text[begin - 1] == text[begin - 1 - period]:
            begin -= 1
        if len(text) - begin >= (TIMES - 1) * period:
            return text[:begin]
    return text
