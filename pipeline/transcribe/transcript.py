"""What was said in a recording: turns, the chunks that they come from, and the whole."""

from __future__ import annotations

from dataclasses import dataclass, field

from pipeline.decode.ask import Answer

TIMES, LONGEST = 5, 200  # a circle stands there so often, and has so many characters at most


@dataclass(frozen=True)
class TranscriptTurn:
    """What somebody says at a stretch. Times are estimates, seconds into the recording."""

    speaker: str | None  # None: text that the model gave to nobody
    start: float
    end: float
    text: str
    chunk: int
    written: str | None = None  # what the model called the speaker
    similarity: float | None = None  # cosine to the person, where the voice decided


@dataclass(frozen=True)
class ChunkResult:
    """One chunk: where it lies, what the model wrote, and what was made of it."""

    number: int
    start: float
    end: float
    raw: str
    stop: str
    turns: tuple[TranscriptTurn, ...]
    notes: tuple[str, ...] = ()


@dataclass
class Transcript:
    """A whole recording, or as much of it as could be read."""

    audio: str
    model: str
    names: tuple[str, ...] = ()  # enrolled
    seconds: float = 0.0  # heard so far
    speech: float = 0.0  # of them in chunks
    chunks: list[ChunkResult] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    error: str | None = None  # why it ends before the recording does

    @property
    def turns(self) -> list[TranscriptTurn]:
        """Of all chunks, in order of time."""
        return [t for c in self.chunks for t in c.turns]

    @property
    def speakers(self) -> list[str]:
        """By first appearance."""
        return list(dict.fromkeys(t.speaker for t in self.turns if t.speaker is not None))


def readable(answer: Answer) -> tuple[str, tuple[str, ...]]:
    """An answer's text with the circle at its end gone through once, and notes of how a guard ended it."""
    if answer.stop == "end":
        return answer.text, ()
    if answer.stop == "limit":
        return answer.text, ("was stopped at the most that its audio allows",)
    return _once(answer.text), ("went in circles and was stopped",)


def _once(text: str) -> str:
    """The text whose end is one run of characters again and again, with that run once."""
    for period in range(1, min(LONGEST, len(text) // TIMES) + 1):
        begin = len(text)
        while begin > period and text[begin - 1] == text[begin - 1 - period]:
            begin -= 1
        if len(text) - begin >= (TIMES - 1) * period:
            return text[:begin]
    return text
