"""Corpora with one audio file per utterance, such as AISHELL-1 and AISHELL-2."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from shards.errors import AudioError
from shards.manifests.audio_files import AudioInfo, Source
from shards.manifests.audit import Audit
from shards.manifests.corpus_source import CorpusSource
from shards.manifests.manifest import Recording, SpeakerInfo
from shards.manifests.prepare_types import PrepareOptions
from shards.sample import Segment


@dataclass(frozen=True, slots=True)
class Utterance:
    """An audio file with one speaker and one text."""

    key: str
    path: Path
    speaker: SpeakerInfo
    session: str
    text: str


@dataclass
class Utterances(CorpusSource[Utterance]):
    """A manifest of utterances."""

    corpus: str
    split: str
    language: str
    items: Iterable[Utterance]
    options: PrepareOptions
    policy: str = "plain"  # unless the command line names one
    audit: Audit = field(default_factory=Audit)

    def _files(self) -> tuple[Iterable[tuple[Source, Utterance]], int | None]:
        return ((u.path, u) for u in self.items), None

    def _recording(self, u: Utterance, info: AudioInfo | AudioError) -> Recording | None:
        if isinstance(info, AudioError):
            self.audit.skip("utterance with unreadable audio", str(info))
            return None
        text = self.text(u.text)
        if not text:
            self.audit.skip("utterance without words", f"{u.key}: {u.text[:40]!r}")
            return None
        speaker = self.speakers.setdefault(u.speaker.speaker, u.speaker).speaker
        return Recording(
            key=self.keys.assign(u.key),
            corpus=self.corpus,
            split=self.split,
            session=u.session,
            language=self.language,
            audio=info.audio,
            segments=(Segment(speaker, 0.0, info.seconds, text),),
            duration=info.seconds,
            channel=0 if info.channels > 1 else None,
        )
