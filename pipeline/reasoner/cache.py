"""The speaker-aware cache of Speaker-Reasoner: earlier speech of each speaker, so that labels hold across chunks.

An entry is a speaker, the audio of an utterance and its words. Entries are ranked by φ = d · (1 + α · i), duration
times recency (arXiv 2604.03074): d is the length in seconds, i in (0, 1] says how late in the recording the entry is.
The paper states neither α nor the number of entries; ours are settings. Enrolled people are entries that never leave.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from pipeline.dialogue.lines import CENTISECONDS, Line, label
from pipeline.reasoner.loop import KnownSpeaker
from shards.errors import ConfigError
from shards.sample import SAMPLE_RATE

_STEP = SAMPLE_RATE // CENTISECONDS


@dataclass(frozen=True, slots=True)
class CacheRules:
    """Settings of the cache. None of them is in the paper."""

    alpha: float = 1.0
    per_speaker: int = 2  # entries
    min_seconds: float = 1.0  # shorter utterances say little about a voice
    max_seconds: float = 10.0  # of an entry: a longer utterance is cut
    total_seconds: float = 40.0  # of all entries that are shown; enrolled people come first

    def __post_init__(self) -> None:
        if self.alpha < 0 or self.per_speaker < 1 or not 0 < self.min_seconds <= self.max_seconds <= self.total_seconds:
            raise ConfigError(
                "speaker cache: alpha must be at least 0, per_speaker at least 1, and "
                f"0 < min_seconds <= max_seconds <= total_seconds; got {self}"
            )


@dataclass(frozen=True, slots=True)
class _Entry:
    speaker: int  # number in the recording, from 1
    chunk: int  # from 1; 0: enrolled
    audio: np.ndarray
    text: str

    @property
    def seconds(self) -> float:
        return len(self.audio) / SAMPLE_RATE


class SpeakerCache:
    """Entries of the speakers of a recording, chunk after chunk; their memory is bounded by the rules."""

    def __init__(self, rules: CacheRules | None = None) -> None:
        """Start without speakers."""
        self._rules = rules or CacheRules()
        self._enrolled: list[_Entry] = []
        self._entries: list[_Entry] = []
        self._chunk = 0
        self.genders: dict[int, str | None] = {}  # number of a speaker in the recording → gender
        self.names: dict[int, str] = {}  # of enrolled people

    def enrol(self, name: str, audio: np.ndarray, text: str = "", gender: str | None = None) -> int:
        """Add an enrolled person before the first chunk; ``audio`` (S,) float32 at 16 kHz. Returns the number.

        Raises:
            ConfigError: the name is enrolled already, or a chunk has been seen.
        """
        if self._chunk:
            raise ConfigError(f"{name} cannot be enrolled after the first chunk of a recording")
        if name in self.names.values():
            raise ConfigError(f"{name} is enrolled twice")
        number = len(self.genders) + 1
        self.genders[number], self.names[number] = gender, name
        longest = round(self._rules.max_seconds * SAMPLE_RATE)
        self._enrolled.append(_Entry(number, 0, audio[:longest].copy(), text))
        return number

    def shown(self) -> tuple[list[KnownSpeaker], list[int]]:
        """Return the entries to put before the next chunk, and the number of each of their speakers in the recording.

        The model numbers speakers from 1 in every chunk, the known ones first, so the n-th different speaker here is
        its number n.
        """
        taken = self._chosen()
        order = list(dict.fromkeys(entry.speaker for entry in taken))
        places = {number: place for place, number in enumerate(order, 1)}
        known = [
            KnownSpeaker(label(places[e.speaker], self.genders[e.speaker]), e.audio, e.text)
            for e in sorted(taken, key=lambda e: places[e.speaker])
        ]
        return known, order

    def update(self, audio: np.ndarray, lines: Sequence[Line], order: Sequence[int]) -> list[int]:
        """Take the lines of a chunk into the cache.

        Args:
            audio: (S,) of the chunk, 16 kHz.
            lines: with times from the chunk's start.
            order: of :meth:`shown` before this chunk.

        Returns:
            The number of each line's speaker in the recording.
        """
        self._chunk += 1
        numbers = dict(enumerate(order, 1))
        found = []
        for line in lines:
            if line.number not in numbers:
                numbers[line.number] = len(self.genders) + 1
                self.genders[numbers[line.number]] = line.gender
            found.append(numbers[line.number])
        self._entries += self._new(audio, lines, found)
        self._forget()
        return found

    def _new(self, audio: np.ndarray, lines: Sequence[Line], numbers: Sequence[int]) -> Iterable[_Entry]:
        longest = round(self._rules.max_seconds * SAMPLE_RATE)
        for i, (line, number) in enumerate(zip(lines, numbers, strict=True)):
            alone = all(
                other.end <= line.start or other.start >= line.end or other is line
                for other in [*lines[:i], *lines[i + 1 :]]
            )
            start, stop = line.start * _STEP, min(line.end * _STEP, len(audio))
            if alone and line.text and stop - start >= self._rules.min_seconds * SAMPLE_RATE:
                yield _Entry(number, self._chunk, audio[start : min(stop, start + longest)].copy(), line.text)

    def _rank(self, entry: _Entry) -> float:
        """φ of an entry: its seconds times recency."""
        return entry.seconds * (1 + self._rules.alpha * entry.chunk / max(1, self._chunk))

    def _forget(self) -> None:
        """Keep the best entries of each speaker."""
        best: dict[int, list[_Entry]] = {}
        for entry in sorted(self._entries, key=lambda e: -self._rank(e)):
            held = best.setdefault(entry.speaker, [])
            if len(held) < self._rules.per_speaker:
                held.append(entry)
        self._entries = [entry for held in best.values() for entry in held]

    def _chosen(self) -> list[_Entry]:
        """Enrolled people, then the best entry of each speaker, then further ones, while there is room."""
        ranked = sorted(self._entries, key=lambda e: -self._rank(e))
        firsts: list[_Entry] = []
        others: list[_Entry] = []
        for entry in ranked:
            known = any(e.speaker == entry.speaker for e in firsts)
            (others if known else firsts).append(entry)
        chosen = list(self._enrolled)
        seconds = sum(entry.seconds for entry in chosen)
        for entry in [*firsts, *others]:
            if seconds + entry.seconds <= self._rules.total_seconds:
                chosen.append(entry)
                seconds += entry.seconds
        return chosen
