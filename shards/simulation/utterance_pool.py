"""Single-speaker utterances to mix conversations from, by person and speaker."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from shards.errors import ConfigError, ManifestError
from shards.manifests.manifest import Recording, SpeakerInfo
from shards.sample import SAMPLE_RATE, is_known


@dataclass(frozen=True)
class SourceUtterance:
    """An utterance to mix from: its audio span, speaker and text."""

    key: str
    audio: str
    channel: int | None
    start: float  # seconds into the file
    num_samples: int
    speaker: str
    person: str  # the speaker id if the person is unknown
    language: str
    text: str


class UtterancePool:
    """Utterances to mix from, by person and speaker, in the order of the manifests."""

    def __init__(self, recordings: Iterable[Recording], speakers: Iterable[SpeakerInfo]) -> None:
        person_of = {s.speaker: s.person or s.speaker for s in speakers}
        self.voices: dict[str, dict[str, list[SourceUtterance]]] = {}
        for utterance in _utterances(recordings, person_of):
            self.voices.setdefault(utterance.person, {}).setdefault(utterance.speaker, []).append(utterance)
        self._of = {speaker: u for voices in self.voices.values() for speaker, u in voices.items()}
        self._persons = {"": {person: sorted(voices) for person, voices in sorted(self.voices.items())}}
        for person, voices in sorted(self.voices.items()):
            for speaker in sorted(voices):
                self._persons.setdefault(self._of[speaker][0].language, {}).setdefault(person, []).append(speaker)

    def cast(self, rng: np.random.Generator, count: int, same_language: bool) -> list[str]:
        """Draw `count` speaker ids of different persons, in random order."""
        allowed = self._persons[""]
        if same_language:
            languages = sorted(k for k, persons in self._persons.items() if k and len(persons) >= count)
            if not languages:
                raise ConfigError(f"no language of the sources has {count} speakers; omit --same-language")
            allowed = self._persons[languages[int(rng.integers(len(languages)))]]
        if count > len(allowed):
            raise ConfigError(f"{count} speakers requested, but the sources have only {len(allowed)} different persons")
        persons = list(allowed)
        chosen = [persons[i] for i in rng.permutation(len(persons))[:count]]
        return [allowed[p][int(rng.integers(len(allowed[p])))] for p in chosen]

    def utterances(self, speaker: str) -> list[SourceUtterance]:
        """Return all utterances of a speaker id."""
        return self._of[speaker]


def _utterances(recordings: Iterable[Recording], person_of: dict[str, str]) -> Iterable[SourceUtterance]:
    """Yield the segments with text of recordings of a single known speaker."""
    empty = True
    for recording in recordings:
        if len(recording.speakers) != 1 or not is_known(recording.speakers[0]):
            continue
        for segment in recording.segments:
            samples = round((segment.end - segment.start) * SAMPLE_RATE)
            if not segment.text or samples <= 0:
                continue
            empty = False
            yield SourceUtterance(
                key=recording.key,
                audio=recording.audio,
                channel=recording.channel,
                start=recording.start + segment.start,
                num_samples=samples,
                speaker=segment.speaker,
                person=person_of.get(segment.speaker, segment.speaker),
                language=recording.language,
                text=segment.text,
            )
    if empty:
        raise ManifestError("the sources contain no utterance with text by a single known speaker")
