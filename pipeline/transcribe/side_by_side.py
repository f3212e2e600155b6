"""Recordings that are transcribed side by side by dialogues: chunks of all of them stand in the engine together.

The cache of a chunk needs the chunks before it, so a recording with a cache has one open dialogue, and a single one
cannot fill a batch. Each recording has a cache of its own; its transcript is that of the recording alone. As many
recordings are open as dialogues fit into the batch, each with the audio of its chunk and what was read ahead of it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from pipeline.dialogue.lines import CENTISECONDS, label
from pipeline.reasoner.cache import SpeakerCache
from pipeline.reasoner.loop import OpenDialogues, Outcome, ReasonerClip
from pipeline.transcribe.chunks import Chunk
from pipeline.transcribe.stream import Reading, Update
from pipeline.transcribe.transcript import ChunkResult, TranscriptTurn
from shards.errors import AudioError, ModelError


class Recording:
    """A recording, its chunks that stand in the engine, and its cache."""

    def __init__(self, number: int, reading: Reading, language: str, cache: SpeakerCache | None) -> None:
        """Take a recording from its start; without a cache labels hold for one chunk."""
        self.number, self.reading = number, reading
        self._language, self._cache = language, cache
        self._order: list[int] = []  # of the cache's speakers, as shown
        self._chunks: list[Chunk] = []
        self._outcomes: dict[str, Outcome] = {}

    @property
    def waits(self) -> bool:
        """Return whether chunks of it stand in the engine."""
        return bool(self._chunks)

    def ask(self, most: int) -> list[ReasonerClip]:
        """Read on; return the clips of the next chunks, at most so many, and with a cache one; none: it has ended."""
        known, self._order = self._cache.shown() if self._cache is not None else ([], [])
        self._chunks, self._outcomes = self.reading.take(most if self._cache is None else 1), {}
        return [
            ReasonerClip(self._key(c), c.wave, self._language, tuple(known), f"chunk {c.number + 1}")
            for c in self._chunks
        ]

    def take(self, outcome: Outcome) -> bool:
        """Take an outcome if it is of this recording; return whether its chunks are all transcribed."""
        keys = [self._key(c) for c in self._chunks]
        if outcome.key not in keys:
            return False
        self._outcomes[outcome.key] = outcome
        if len(self._outcomes) < len(keys):
            return False
        results = [self._read(c, self._outcomes[k]) for c, k in zip(self._chunks, keys, strict=True)]
        self.reading.transcript.chunks += results
        self._chunks = []
        return True

    def drop(self) -> list[str]:
        """Forget the chunks that stand in the engine; return their keys."""
        keys, self._chunks = [self._key(c) for c in self._chunks], []
        return keys

    def _key(self, chunk: Chunk) -> str:
        return f"recording {self.number + 1}, chunk {chunk.number + 1}"

    def _read(self, chunk: Chunk, outcome: Outcome) -> ChunkResult:
        if self._cache is None:
            return _result(chunk, outcome, [f"chunk {chunk.number + 1} {line.label}" for line in outcome.lines])
        numbers = self._cache.update(chunk.wave, outcome.lines, self._order)
        return _result(chunk, outcome, [self._cache.names.get(n) or label(n, self._cache.genders[n]) for n in numbers])


def side_by_side(coming: Iterable[Recording], dialogues: OpenDialogues) -> Iterator[Update]:
    """Yield what is new of a recording whenever chunks of it are transcribed, and when it ends.

    Args:
        coming: recordings, each opened when there is room for it.
        dialogues: without open ones.
    """
    waiting = iter(coming)
    reading: list[Recording] = []
    try:
        while True:
            for recording in [r for r in reading if not r.waits]:
                if dialogues.room and not _asked(recording, dialogues):
                    reading.remove(recording)
                    yield _end(recording)
            while dialogues.room and (opened := next(waiting, None)) is not None:
                if _asked(opened, dialogues):
                    reading.append(opened)
                else:
                    yield _end(opened)
            if not reading:
                return
            try:
                ended = dialogues.step()
            except ModelError as fault:  # of all that were asked
                asked = [r for r in reading if r.waits]
                reading = [r for r in reading if not r.waits]
                yield from [_failed(r, dialogues, fault) for r in asked]
                continue
            for outcome in ended:
                yield from [Update(r.number, r.reading.transcript) for r in reading if r.take(outcome)]
    finally:
        for recording in reading:
            _drop(recording, dialogues)


def _asked(recording: Recording, dialogues: OpenDialogues) -> bool:
    """Open dialogues of a recording's next chunks; return whether there are any."""
    clips = recording.ask(dialogues.room)
    for clip in clips:
        dialogues.open(clip)
    return bool(clips)


def _drop(recording: Recording, dialogues: OpenDialogues) -> None:
    for key in recording.drop():
        dialogues.close(key)


def _failed(recording: Recording, dialogues: OpenDialogues, fault: ModelError) -> Update:
    """End a recording whose chunks the model cannot take; those before them are kept."""
    _drop(recording, dialogues)
    try:
        recording.reading.fail(fault)
    except ModelError as e:
        return Update(recording.number, recording.reading.transcript, True, e)
    return _end(recording)


def _end(recording: Recording) -> Update:
    try:
        return Update(recording.number, recording.reading.end(), True)
    except (AudioError, ModelError) as fault:
        return Update(recording.number, recording.reading.transcript, True, fault)


def _result(chunk: Chunk, outcome: Outcome, speakers: Sequence[str]) -> ChunkResult:
    turns = tuple(
        TranscriptTurn(
            speaker,
            round(chunk.start + line.start / CENTISECONDS, 3),
            round(chunk.start + line.end / CENTISECONDS, 3),
            line.text,
            chunk.number,
            line.label,
        )
        for line, speaker in zip(outcome.lines, speakers, strict=True)
        if line.text
    )
    notes = list(outcome.repairs)
    if outcome.rejected:
        notes.append(f"{outcome.attempts} attempts in {outcome.turns} turns; first rejected: {outcome.rejected[0]}")
    if not outcome.complete:
        notes.append(f"{outcome.reason}; understood up to {outcome.covered:.2f} s of {chunk.seconds:.2f} s")
    stop = "end" if outcome.complete else outcome.reason
    raw = "\n".join(outcome.replies)
    return ChunkResult(chunk.number, round(chunk.start, 3), round(chunk.end, 3), raw, stop, turns, tuple(notes))
