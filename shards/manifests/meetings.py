"""Meetings annotated in TextGrid files with one interval tier per speaker: AliMeeting, AISHELL-4, AISHELL-5."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from shards.errors import AudioError, ManifestError
from shards.manifests.audio_files import AudioInfo, Source
from shards.manifests.audit import Audit
from shards.manifests.corpus_source import CorpusSource
from shards.manifests.manifest import Recording, SpeakerInfo
from shards.manifests.prepare_types import PrepareOptions
from shards.manifests.segment_cleaning import clean_segments
from shards.manifests.textgrid import Tier, read_textgrid
from shards.sample import Segment


@dataclass(frozen=True)
class Track:
    """An audio file of a session and the TextGrid files with its transcript."""

    key: str
    session: str
    audio: Path
    channel: int | None
    grids: tuple[Path, ...]


@dataclass
class Meetings(CorpusSource[Track]):
    """A manifest of tracks. `speaker_of` returns the speaker of a tier, None for a non-speaker tier."""

    corpus: str
    split: str
    tracks: Sequence[Track]
    speaker_of: Callable[[Track, Path, Tier], SpeakerInfo | None]
    options: PrepareOptions
    language: str = "zh"
    policy: str = "plain"
    audit: Audit = field(default_factory=Audit)

    def _files(self) -> tuple[Iterable[tuple[Source, Track]], int | None]:
        return ((t.audio, t) for t in self.tracks), len(self.tracks)

    def _recording(self, track: Track, info: AudioInfo | AudioError) -> Recording | None:
        if isinstance(info, AudioError):
            self.audit.skip("recording with unreadable audio", str(info))
            return None
        try:
            raw, speakers = self._read(track)
        except ManifestError as error:  # without one speaker's words the targets would be wrong
            self.audit.skip("recording with unreadable TextGrid", str(error))
            return None
        segments = clean_segments(raw, info.seconds, self.text, self.audit, track.key)
        spoken = {s.speaker for s in segments}
        for speaker in sorted(set(speakers) - spoken):
            self.audit.skip("speaker without speech", f"{track.key}: {speaker}")
        if not segments:
            self.audit.skip("recording without speech", track.key)
            return None
        self.speakers |= {s: speakers[s] for s in spoken}
        return Recording(
            key=self.keys.assign(track.key),
            corpus=self.corpus,
            split=self.split,
            session=track.session,
            language=self.language,
            audio=info.audio,
            segments=segments,
            duration=info.seconds,
            channel=track.channel if info.channels > 1 else None,
        )

    def _read(self, track: Track) -> tuple[list[Segment], dict[str, SpeakerInfo]]:
        raw, speakers = [], {}
        for path in track.grids:
            for tier in read_textgrid(path):
                info = self.speaker_of(track, path, tier)
                if info is None:
                    if any(i.mark for i in tier.intervals):
                        self.audit.skip("non-speaker tier", f"{path}: {tier.name!r}")
                    continue
                speakers[info.speaker] = info
                raw += [Segment(info.speaker, i.start, i.end, i.mark) for i in tier.intervals if i.mark]
        return raw, speakers


def first_with_prefix(stems: Iterable[str], prefix: str) -> str | None:
    """Return the first name, in sorted order, that equals the prefix or continues it with an underscore."""
    return next((s for s in sorted(stems) if s == prefix or s.startswith(f"{prefix}_")), None)
