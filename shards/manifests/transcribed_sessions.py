"""Sessions with transcribed segments, the common form of the generic formats."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from shards.errors import AudioError
from shards.manifests.audio_files import AudioInfo
from shards.manifests.audit import Audit
from shards.manifests.corpus_source import CorpusSource
from shards.manifests.manifest import Recording, SpeakerInfo
from shards.manifests.prepare_types import PrepareOptions
from shards.manifests.segment_cleaning import clean_segments
from shards.sample import UNKNOWN, Segment


@dataclass(frozen=True, slots=True)
class RawSegment:
    """A segment before cleaning. Seconds from the start of the session's audio; `end` None is the end of that audio."""

    speaker: str | None
    start: float
    end: float | None
    text: str


@dataclass(frozen=True, slots=True)
class TranscribedSession:
    """A span of an audio file and its transcript."""

    key: str
    audio: Path
    segments: tuple[RawSegment, ...]
    session: str = ""  # "": the key
    start: float = 0.0
    duration: float | None = None  # None: to the end of the file
    channel: int | None = None
    language: str | None = None


@dataclass
class TranscribedSessions(CorpusSource[TranscribedSession]):
    """A manifest of transcribed sessions.

    A speaker id becomes ``CORPUS:ID``, with ``--session-speakers`` ``CORPUS:SESSION:ID`` without a known person.
    Segments without a speaker get ``CORPUS:unknown``. The text policy is ``raw`` unless the command line names one.
    """

    corpus: str
    split: str
    sessions: Iterable[TranscribedSession]
    options: PrepareOptions
    genders: Mapping[str, str] = field(default_factory=dict)  # speaker id of the format → f or m
    policy: str = "raw"
    audit: Audit = field(default_factory=Audit)
    _keys: set[str] = field(default_factory=set)

    def _files(self) -> tuple[Iterable[tuple[Path, TranscribedSession]], int | None]:
        return ((s.audio, s) for s in self.sessions), None

    def _recording(self, s: TranscribedSession, info: AudioInfo | AudioError) -> Recording | None:
        if isinstance(info, AudioError):
            self.audit.skip("recording with unreadable audio", str(info))
            return None
        key, session = re.sub(r"[./\\\s]", "_", s.key), s.session or s.key
        if key in self._keys:
            self.audit.skip("duplicate recording key", key)
            return None
        if not 0 <= s.start < info.seconds:
            self.audit.skip("recording outside its audio file", f"{key}: {s.start:g} s of {info.seconds:.2f} s")
            return None
        duration = min(info.seconds - s.start, info.seconds if s.duration is None else s.duration)
        words = any(r.text.strip() for r in s.segments)
        raw = [
            Segment(self._id(r.speaker, session), r.start, duration if r.end is None else r.end, r.text)
            for r in s.segments
        ]
        segments = clean_segments(raw, duration, self.text, self.audit, key, words=words)
        if not segments:
            self.audit.skip("recording without speech", key)
            return None
        language = s.language or self.options.language
        spoken = {x.speaker for x in segments}
        for r, given in zip(s.segments, raw, strict=True):
            if given.speaker in spoken and r.speaker:
                self._add(given.speaker, r.speaker, language)
        for speaker in sorted({x.speaker for x in raw} - spoken):
            self.audit.skip("speaker without speech", f"{key}: {speaker}")
        self._keys.add(key)
        return Recording(
            key=key,
            corpus=self.corpus,
            split=self.split,
            session=session,
            language=language,
            audio=str(s.audio.absolute()),
            segments=segments,
            start=s.start,
            duration=duration,
            channel=(s.channel or 0) if info.channels > 1 else None,
        )

    def _id(self, speaker: str | None, session: str) -> str:
        if not speaker:
            return f"{self.corpus}:{UNKNOWN}"
        return f"{self.corpus}:{session}:{speaker}" if self.options.session_speakers else f"{self.corpus}:{speaker}"

    def _add(self, speaker: str, own: str, language: str) -> None:
        if speaker not in self.speakers:
            person = None if self.options.session_speakers else speaker
            self.speakers[speaker] = SpeakerInfo(speaker, self.corpus, language, self.genders.get(own), person)


def corpus_name(root: Path, options: PrepareOptions) -> str:
    """Return the name of the corpus, from ``--name`` or the folder, without characters that ids cannot contain."""
    return re.sub(r"[^\w-]+", "-", options.name or root.absolute().name.partition(".")[0]).strip("-") or "corpus"
