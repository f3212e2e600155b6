"""Sessions with transcribed segments, the common form of the generic formats."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from shards.errors import AudioError
from shards.manifests.audio_files import AudioInfo, Source
from shards.manifests.audit import Audit
from shards.manifests.corpus_source import CorpusSource
from shards.manifests.foreign_rows import NOT_AVAILABLE
from shards.manifests.keys import LONGEST_KEY, plain_key
from shards.manifests.manifest import Recording, SpeakerInfo
from shards.manifests.prepare_types import PrepareOptions
from shards.manifests.segment_cleaning import clean_segments
from shards.manifests.text_policy import is_encodable
from shards.sample import UNKNOWN, Segment
from shards.sound.audio import SLACK

_NO_CHANNELS = {"", NOT_AVAILABLE}


@dataclass(frozen=True, slots=True)
class RawSegment:
    """A segment before cleaning. Seconds from the start of the session's audio; `end` None is the end of that audio."""

    speaker: str | None
    start: float
    end: float | None
    text: str | None  # None: the format has turns only; a session of such segments needs no words
    person: str | None = None  # a name of the person in all corpora; None: not said
    gender: str | None = None  # of the speaker, if the segment states it
    channel: str = ""  # the format's name of it; sessions with several are mixed, unless each is a session of its own


@dataclass(frozen=True, slots=True)
class TranscribedSession:
    """A span of an audio file and its transcript."""

    key: str
    audio: Source
    segments: tuple[RawSegment, ...]
    session: str = ""  # "": the key
    start: float = 0.0
    duration: float | None = None  # None: to the end of the file
    channel: int | None = None
    language: str | None = None
    origin: str = ""  # names the recording uniquely where keys of two recordings may be equal; "": the key


@dataclass
class TranscribedSessions(CorpusSource[TranscribedSession]):
    """A manifest of transcribed sessions.

    A speaker id becomes ``CORPUS:ID``, with ``--session-speakers`` ``CORPUS:SESSION:ID`` without a known person, unless
    a segment names the person.
    Segments without a speaker get ``CORPUS:unknown``. The text policy is ``raw`` unless the command line names one.
    """

    corpus: str
    split: str
    sessions: Iterable[TranscribedSession]
    options: PrepareOptions
    genders: Mapping[str, str] = field(default_factory=dict)  # speaker id of the format → f or m
    policy: str = "raw"
    audit: Audit = field(default_factory=Audit)
    _persons: dict[str, str] = field(default_factory=dict)  # speaker → the person that segments name

    def _files(self) -> tuple[Iterable[tuple[Source, TranscribedSession]], int | None]:
        return ((s.audio, s) for s in self.sessions), None

    def _recording(self, s: TranscribedSession, info: AudioInfo | AudioError) -> Recording | None:
        if isinstance(info, AudioError):
            self.audit.skip("recording with unreadable audio", str(info))
            return None
        key, session = plain_key(s.key), s.session or s.key
        fault = self._fault(s, info, key, session)
        if fault:
            self.audit.skip(*fault)
            return None
        duration = self._duration(s, info, key)
        words = any(r.text is not None for r in s.segments) and self.split not in self.options.untranscribed
        raw = [
            Segment(self._id(r.speaker, session), r.start, duration if r.end is None else r.end, r.text or "")
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
                self._add(given.speaker, r, language)
        for speaker in sorted({x.speaker for x in raw} - spoken):
            self.audit.skip("speaker without speech", f"{key}: {speaker}")
        return Recording(
            key=self._key(s),
            corpus=self.corpus,
            split=self.split,
            session=session,
            language=language,
            audio=info.audio,
            segments=segments,
            start=s.start,
            duration=duration,
            channel=self._channel(s, info, key),
        )

    def _fault(self, s: TranscribedSession, info: AudioInfo, key: str, session: str) -> tuple[str, str] | None:
        """Return why the session cannot be a recording, and what to list; None if it can."""
        if self.keys.seen(s.key, s.origin):
            return "duplicate recording key", key
        if not is_encodable(f"{key}{session}{info.audio}"):
            return "recording whose name is not UTF-8", key
        if len(key.encode()) > LONGEST_KEY:
            return f"recording key of more than {LONGEST_KEY} bytes", key[:80]
        if s.channel is not None and s.channel >= info.channels:
            return "recording on a missing channel", f"{key}: channel {s.channel} of {info.channels}"
        if not 0 <= s.start < info.seconds:
            return "recording outside its audio file", f"{key}: {s.start:g} s of {info.seconds:.2f} s"
        return None

    def _duration(self, s: TranscribedSession, info: AudioInfo, key: str) -> float:
        """Return the seconds of the session that its audio file has."""
        left = info.seconds - s.start
        if s.duration is not None and left < s.duration - SLACK:
            what = f"{key}: {s.duration:g} s, the file has {left:.2f} s of them"
            self.audit.change("recording longer than its audio file: cut", what)
        return left if s.duration is None else min(left, s.duration)

    def _channel(self, s: TranscribedSession, info: AudioInfo, key: str) -> int | None:
        """Return the channel to read; None for all of them."""
        if s.channel is None and info.channels > 1 and len({r.channel for r in s.segments} - _NO_CHANNELS) > 1:
            self.audit.change("speech on several channels: all are mixed", key)
            return None
        return (s.channel or 0) if info.channels > 1 else None

    def _key(self, s: TranscribedSession) -> str:
        key = self.keys.assign(s.key, s.origin)
        if key != plain_key(s.key):
            self.audit.change("key of another recording: a longer one", f"{s.origin or s.key}: {key}")
        return key

    def _id(self, speaker: str | None, session: str) -> str:
        if not speaker:
            return f"{self.corpus}:{UNKNOWN}"
        return f"{self.corpus}:{session}:{speaker}" if self.options.session_speakers else f"{self.corpus}:{speaker}"

    def _add(self, speaker: str, segment: RawSegment, language: str) -> None:
        if speaker not in self.speakers:
            person = None if self.options.session_speakers else speaker
            gender = self.genders.get(segment.speaker or "") or (segment.gender and segment.gender[0])
            self.speakers[speaker] = SpeakerInfo(speaker, self.corpus, language, gender, person)
        if segment.person:
            if self._persons.setdefault(speaker, segment.person) != segment.person:
                self.audit.skip("another person of the same speaker", f"{speaker}: {segment.person}")
            self.speakers[speaker] = replace(self.speakers[speaker], person=self._persons[speaker])


def corpus_name(root: Path, options: PrepareOptions) -> str:
    """Return the name of the corpus, from ``--name`` or the folder, without characters that ids cannot contain."""
    return re.sub(r"[^\w-]+", "-", options.name or root.absolute().name.partition(".")[0]).strip("-") or "corpus"
