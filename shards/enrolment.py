"""Enrolment: which speech stands for a speaker, and the vector made from it.

A speaker's single-voice speech in the enrolment manifests is cut into clips of 2–10 s; short utterances are joined
until they make 2 s. A vector is the unit-normalised mean of a few clips' embeddings, drawn anew for every recording
(by seed and key), so that the vectors of one speaker differ from sample to sample as they would between enrolments.

No clip is used that the recording itself contains: not its own key, not a key in its `sources`, not the same span of
the same session. Where a speaker has no other speech, the recording's own segments are used and counted.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from pathlib import Path

import numpy as np

from shards.audio import load
from shards.errors import SpeakerError
from shards.extractors import MIN_SECONDS, Extractor, load_extractor, unit_norm
from shards.manifests import Recording, SpeakerInfo, read_manifest, read_speakers

MIN_CLIP_S, MAX_CLIP_S = 2.0, 10.0
CLIPS_PER_SPEAKER = 16  # kept apart from others of the speaker: only these are embedded
CLIPS_PER_VECTOR = 4


@dataclass(frozen=True)
class Piece:
    """A stretch of an audio file; times in seconds into the file, which are those of the session."""

    key: str
    session: str
    audio: str
    channel: int | None
    start: float
    end: float

    @property
    def seconds(self) -> float:
        return self.end - self.start

    def load(self) -> np.ndarray:
        """(n,) float32 at 16 kHz."""
        return load(self.audio, channel=self.channel, start=self.start, duration=self.seconds)


Clip = tuple[Piece, ...]  # one after the other


class Enroller:
    """Speaker vectors for recordings, from enrolment manifests.

    Args:
        manifests: folders with `recordings.jsonl` and `speakers.jsonl`; all speech in them may be used.
        extractor: a name for :func:`shards.extractors.load_extractor`, or an extractor; loaded at the first use.
        seed: of the order of clips and of the draw per recording.
    """

    def __init__(self, manifests: Sequence[str | Path], extractor: str | Extractor = "campplus", seed: int = 0) -> None:
        self.seed = seed
        self._extractor = extractor
        self.speakers: dict[str, SpeakerInfo] = {}
        self._pieces: dict[str, list[Piece]] = {}
        self._clips: dict[str, list[Clip]] = {}
        self._vectors: dict[Clip, np.ndarray] = {}
        self.own_speech = 0  # vectors for which there was no other speech than the recording's own
        for folder in manifests:
            self.speakers |= {s.speaker: s for s in read_speakers(folder)}
            for recording in read_manifest(folder):
                for speaker, piece in _single_voice(recording):
                    self._pieces.setdefault(speaker, []).append(piece)

    @cached_property
    def extractor(self) -> Extractor:
        """The speaker model."""
        return load_extractor(self._extractor) if isinstance(self._extractor, str) else self._extractor

    def embed(self, recording: Recording) -> np.ndarray:
        """(n_speakers, dim) float16 of unit norm, in order of first appearance in the recording.

        Raises:
            SpeakerError: a speaker with less than 0.1 s of speech, here and elsewhere.
            AudioError: enrolment audio that cannot be read.
        """
        segments = sorted(recording.segments, key=lambda s: s.start)
        speakers = dict.fromkeys(s.speaker for s in segments)
        return np.stack([self._vector(recording, speaker) for speaker in speakers]).astype(np.float16)

    def clips(self, speaker: str) -> list[Clip]:
        """All enrolment clips of a speaker, in the seed's order."""
        if speaker not in self._clips:
            self._clips[speaker] = _cut(self._pieces.get(speaker, []), self._rng(speaker))
        return self._clips[speaker]

    def mean(self, clips: Sequence[Clip]) -> np.ndarray:
        """(dim,) float32: unit-normalised mean of the clips' unit vectors. Each clip is embedded once."""
        return unit_norm(np.mean([self._embedding(clip) for clip in clips], axis=0))

    def sessions(self, speaker: str) -> list[str]:
        """Sessions of the enrolment manifests in which the speaker is heard."""
        return sorted({p.session for p in self._pieces.get(speaker, ())})

    def heard(self) -> list[str]:
        """Speakers with enrolment speech, sorted."""
        return sorted(self._pieces)

    def _vector(self, recording: Recording, speaker: str) -> np.ndarray:
        clips = [c for c in self.clips(speaker) if not _contained(c, recording)][:CLIPS_PER_SPEAKER]
        if clips:
            chosen = self._rng(recording.key, speaker).permutation(len(clips))[:CLIPS_PER_VECTOR]
            return self.mean([clips[i] for i in chosen])
        self.own_speech += 1
        own = _cut([p for s, p in _pieces_of(recording) if s == speaker], self._rng(recording.key, speaker))
        if sum(p.seconds for p in own[0]) < MIN_SECONDS:
            raise SpeakerError(f"{recording.key}: {speaker} has less than {MIN_SECONDS} s of speech to enrol from")
        return self.mean(own[:CLIPS_PER_VECTOR])

    def _embedding(self, clip: Clip) -> np.ndarray:
        if clip not in self._vectors:
            try:
                wave = np.concatenate([piece.load() for piece in clip])
                self._vectors[clip] = self.extractor.embed([wave])[0]
            except SpeakerError as error:
                raise SpeakerError(f"enrolment clip {clip[0].audio} at {clip[0].start:.2f} s: {error}") from error
        return self._vectors[clip]

    def _rng(self, *words: str) -> np.random.Generator:
        digest = hashlib.sha256("\n".join(words).encode()).digest()
        return np.random.default_rng([self.seed, int.from_bytes(digest[:8], "big")])


def _pieces_of(recording: Recording) -> Iterator[tuple[str, Piece]]:
    """(speaker, piece) of every segment."""
    for s in recording.segments:
        first, last = recording.start + s.start, recording.start + s.end
        yield s.speaker, Piece(recording.key, recording.session, recording.audio, recording.channel, first, last)


def _single_voice(recording: Recording) -> Iterator[tuple[str, Piece]]:
    """(speaker, piece) of the segments during which nobody else speaks."""
    segments = recording.segments
    for segment, (speaker, piece) in zip(segments, _pieces_of(recording), strict=True):
        if not any(s.speaker != speaker and s.start < segment.end and segment.start < s.end for s in segments):
            yield speaker, piece


def _cut(pieces: Sequence[Piece], rng: np.random.Generator) -> list[Clip]:
    """Pieces of one speaker → clips of 2–10 s in random order; less than 2 s only where there is no more.

    Long pieces are halved, thirded … evenly. Joined short ones come in only where single ones are too few.
    """
    order = [pieces[i] for i in rng.permutation(len(pieces))]
    clips: list[Clip] = [(part,) for piece in order if piece.seconds >= MIN_CLIP_S for part in _even(piece)]
    if len(clips) >= CLIPS_PER_SPEAKER:
        return clips
    joined: list[Piece] = []
    for piece in order:
        if piece.seconds < MIN_CLIP_S:
            joined.append(piece)
            if sum(p.seconds for p in joined) >= MIN_CLIP_S:
                clips.append(tuple(joined))
                joined = []
    return clips or ([tuple(joined)] if joined else [])


def _even(piece: Piece) -> list[Piece]:
    count = max(1, int(np.ceil(piece.seconds / MAX_CLIP_S)))
    edges = np.linspace(piece.start, piece.end, count + 1)
    return [Piece(piece.key, piece.session, piece.audio, piece.channel, float(a), float(b)) for a, b in pairwise(edges)]


def _contained(clip: Clip, recording: Recording) -> bool:
    """Whether the recording holds speech of the clip, or was mixed from it."""
    keys = {recording.key, *recording.sources}
    end = float("inf") if recording.duration is None else recording.start + recording.duration
    return any(
        p.key in keys or (p.session == recording.session and p.start < end and recording.start < p.end) for p in clip
    )
