"""Speaker enrolment: which speech represents a speaker, and the vector made from it.

The speech of a speaker during which no other speaks, over all enrolment manifests, is cut into clips of 2–10 s; short
utterances are joined to 2 s. A vector is the unit-normalised mean of a few clips' embeddings, drawn for every recording
(by seed and key), so that the vectors of one speaker differ between samples as they differ between enrolments.

A clip that the recording itself contains is never used: its own key, a key in its `sources`, the same span of the same
session or audio file. If a speaker has no other speech, the recording's own segments are used and counted.

A clip that cannot be read, or gives no vector, is skipped for the speaker's next one, and listed; of joined utterances
only the unreadable one is skipped.
"""

from __future__ import annotations

import hashlib
import heapq
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import islice, pairwise
from pathlib import Path

import numpy as np

from shards.errors import DataError, SpeakerError
from shards.manifests.manifest import Recording, SpeakerInfo, read_manifest, read_speakers
from shards.sample import SAMPLE_RATE, is_known
from shards.sound.audio import load
from shards.voices.extractors import Extractor, load_extractor
from shards.voices.features import MIN_SECONDS, log_mel, unit_norm
from shards.voices.persons import OtherIds

MIN_CLIP_S, MAX_CLIP_S = 2.0, 10.0
QUANTUM = SAMPLE_RATE // 4
CLIPS_PER_SPEAKER = 16  # of a speaker: vectors are drawn from these
CLIPS_PER_VECTOR = 4
PIECES_KEPT = 64  # of a speaker, long ones and short ones each: memory grows with the number of speakers only
VECTORS_KEPT = 100_000


@dataclass(frozen=True)
class Piece:
    """A span of an audio file; times in seconds from the start of the file, which is that of the session."""

    key: str
    session: str
    audio: str
    channel: int | None
    start: float
    end: float

    @property
    def seconds(self) -> float:
        """Length."""
        return self.end - self.start

    def load(self) -> np.ndarray:
        """Load the audio: (n,) float32 at 16 kHz."""
        return load(self.audio, channel=self.channel, start=self.start, duration=self.seconds)


Clip = tuple[Piece, ...]  # pieces that are concatenated
Features = Callable[[Sequence[Clip]], Iterable[np.ndarray | DataError]]
FEATURES_AT_ONCE = 2048  # clips whose features are in memory together: about 400 MB


class Enroller:
    """Speaker vectors for recordings, from enrolment manifests.

    Args:
        manifests: folders with `recordings.jsonl` and `speakers.jsonl`; all speech in them may be used.
        extractor: an extractor, or a name for :func:`shards.voices.extractors.load_extractor`, loaded at the first use.
        seed: of the order of clips and of the draw per recording.
        others: speakers who have other ids in the enrolment manifests; they are enrolled from the speech of these.
    """

    def __init__(
        self,
        manifests: Sequence[str | Path],
        extractor: str | Extractor = "campplus",
        seed: int = 0,
        others: Sequence[OtherIds] = (),
    ) -> None:
        self.seed = seed
        self._extractor = extractor
        self.speakers: dict[str, SpeakerInfo] = {}
        self.manifests = tuple(manifests)
        self._voices: dict[str, _Voice] = {}
        self._clips: dict[str, list[Clip]] = {}
        self.vectors: OrderedDict[Clip, np.ndarray] = OrderedDict()  # cache
        self.made = 0  # vectors
        self.own_speech = 0  # of them, made from the recording's own speech
        self.unenrolled = 0  # recordings with such a vector because all clips of the speaker are unusable
        self._unusable: dict[Clip, _Unusable] = {}  # clips that give no vector
        self._skipped: dict[Clip, _Unusable] = {}  # since the last take_skipped()
        for folder in manifests:
            self.speakers |= {s.speaker: s for s in read_speakers(folder)}
            for recording in read_manifest(folder):
                for speaker, piece in _single_voice(recording):
                    self._voices.setdefault(speaker, _Voice()).add(piece, seed)
        self.speakers |= {o.info.speaker: o.info for o in others}
        heard = {o.info.speaker: tuple(s for s in o.ids if s in self._voices) for o in others}
        self._ids = {speaker: ids for speaker, ids in heard.items() if ids}

    @cached_property
    def extractor(self) -> Extractor:
        """The speaker model."""
        return load_extractor(self._extractor) if isinstance(self._extractor, str) else self._extractor

    def embed(self, recording: Recording) -> np.ndarray:
        """Return (n_speakers, dim) float16 of unit norm, in order of first appearance in the recording.

        Raises:
            SpeakerError: a speaker with less than 0.1 s of speech in all recordings.
            AudioError: neither enrolment audio nor the recording's own can be read.
        """
        segments = sorted(recording.segments, key=lambda s: (s.start, s.end))  # as in the sample
        speakers = dict.fromkeys(s.speaker for s in segments)
        if not speakers:
            return np.zeros((0, self.extractor.dim), np.float16)
        found = [self._vector(recording, speaker) for speaker in speakers]
        self.made += len(found)
        self.own_speech += sum(own for _, own, _ in found)
        self.unenrolled += any(unusable for *_, unusable in found)
        return np.stack([vector for vector, *_ in found]).astype(np.float16)

    def clips(self, speaker: str) -> list[Clip]:
        """Return all enrolment clips of a speaker, in the order of the seed."""
        if speaker not in self._clips:
            self._clips[speaker] = _cut(self.pieces(speaker), self._rng(speaker))
        return self._clips[speaker]

    def pieces(self, speaker: str) -> list[Piece]:
        """Return the kept pieces of a speaker's enrolment speech, in the order of the manifests."""
        ids = self._ids.get(speaker, (speaker,))
        return [piece for s in ids if s in self._voices for piece in self._voices[s].pieces()]

    def mean(self, clips: Sequence[Clip]) -> np.ndarray:
        """Return (dim,) float32, the unit-normalised mean of the clips' unit vectors. Each clip is embedded once."""
        return unit_norm(np.mean([self._embedding(clip) for clip in clips], axis=0))

    def sessions(self) -> dict[str, list[str]]:
        """Map each speaker to the sessions with enrolment speech. Reads the manifests again."""
        found: dict[str, set[str]] = {}
        for folder in self.manifests:
            for recording in read_manifest(folder):
                for speaker, piece in _single_voice(recording):
                    found.setdefault(speaker, set()).add(piece.session)
        found |= {speaker: set().union(*(found[s] for s in ids)) for speaker, ids in self._ids.items()}
        return {speaker: sorted(sessions) for speaker, sessions in found.items()}

    def heard(self) -> list[str]:
        """List the speakers with enrolment speech, sorted."""
        return sorted({*self._voices, *self._ids})

    def prepare(self, recordings: Iterable[Recording], features: Features | None = None) -> None:
        """Embed all clips that these recordings need, in batches for an accelerator.

        A clip that cannot be read is skipped; :meth:`embed` takes another one.

        Args:
            features: clips → log-mel features, or an error, in order; None computes them in this process.
        """
        wanted: dict[Clip, None] = {}
        for recording in recordings:
            for speaker in recording.speakers:
                clips = self._drawn(recording, speaker) or self._own(recording, speaker)
                wanted |= dict.fromkeys(clips[:CLIPS_PER_VECTOR])
        self.prepare_clips(wanted, features)

    def prepare_clips(self, wanted: Iterable[Clip], features: Features | None = None) -> None:
        """Embed clips as :meth:`prepare` does."""
        missing = [c for c in wanted if c not in self.vectors]
        missing.sort(key=lambda clip: sum(p.seconds for p in clip))
        for first in range(0, len(missing), FEATURES_AT_ONCE):
            clips = missing[first : first + FEATURES_AT_ONCE]
            pairs = zip(clips, (features or load_features)(clips), strict=True)
            whole = [(clip, f) for clip, f in pairs if isinstance(f, np.ndarray)]
            if whole:
                try:
                    vectors = self.extractor.embed_features([f for _, f in whole])
                    unit_norm(vectors)  # checks only: dividing once more would change the last bits
                except SpeakerError:  # one of them gives no vector: `embed` takes them one by one and skips it
                    continue
                for (clip, _), vector in zip(whole, vectors, strict=True):
                    self._keep(clip, vector)

    def usable(self, clips: Iterable[Clip], count: int) -> list[Clip]:
        """Return the first `count` clips that give a vector; :meth:`take_skipped` lists the others."""
        return list(islice((part for clip in clips if (part := self._usable_part(clip))), count))

    def take_skipped(self) -> list[dict[str, str]]:
        """Return the clips skipped since the last call: file, key and reason of each."""
        skipped = [
            {
                "file": x.piece.audio,
                "key": x.piece.key,
                "reason": f"enrolment clip at {x.piece.start:.2f} s: {x.reason}",
            }
            for x in self._skipped.values()
        ]
        self._skipped = {}
        return skipped

    def _usable_part(self, clip: Clip) -> Clip:
        """Return the clip, or its readable pieces; empty if they give no vector."""
        if clip not in self._unusable:
            try:
                self._embedding(clip)
            except DataError as error:
                rest = tuple(piece for piece in clip if _is_readable(piece))
                lost = next((piece for piece in clip if piece not in rest), clip[0])
                self._unusable[clip] = _Unusable(lost, str(error), rest if rest != clip else ())
            else:
                return clip
        unusable = self._skipped[clip] = self._unusable[clip]
        return self._usable_part(unusable.rest) if unusable.rest else ()

    def _vector(self, recording: Recording, speaker: str) -> tuple[np.ndarray, bool, bool]:
        """Return a vector, whether it is of the recording's own speech, and whether all clips are unusable."""
        drawn = self._drawn(recording, speaker)
        clips = self.usable(drawn, CLIPS_PER_VECTOR)
        if clips:
            return self.mean(clips), False, False
        own = self._own(recording, speaker)
        if sum(p.seconds for p in own[0]) < MIN_SECONDS:
            raise SpeakerError(f"{recording.key}: {speaker} has less than {MIN_SECONDS} s of speech for enrolment")
        return self.mean(own[:CLIPS_PER_VECTOR]), True, bool(drawn)

    def _drawn(self, recording: Recording, speaker: str) -> list[Clip]:
        """Return the clips drawn for a speaker's vector in a recording, then replacements for unusable ones.

        The draw ignores which clips are usable, or it would depend on what this process has embedded before.
        """
        clips = [c for c in self.clips(speaker) if not _overlaps(c, recording)]
        order = self._rng(recording.key, speaker).permutation(len(clips[:CLIPS_PER_SPEAKER]))
        return [clips[i] for i in order] + clips[CLIPS_PER_SPEAKER:]

    def _own(self, recording: Recording, speaker: str) -> list[Clip]:
        """Return clips of the speaker's speech in the recording itself."""
        return _cut([p for s, p in _pieces_of(recording) if s == speaker], self._rng(recording.key, speaker))

    def _embedding(self, clip: Clip) -> np.ndarray:
        if clip not in self.vectors:
            try:
                self._keep(clip, self.extractor.embed([load_clip(clip)])[0])
            except SpeakerError as error:
                raise SpeakerError(f"enrolment clip {clip[0].audio} at {clip[0].start:.2f} s: {error}") from error
        self.vectors.move_to_end(clip)
        return self.vectors[clip]

    def _keep(self, clip: Clip, vector: np.ndarray) -> None:
        self.vectors[clip] = vector
        if len(self.vectors) > VECTORS_KEPT:
            self.vectors.popitem(last=False)

    def _rng(self, *words: str) -> np.random.Generator:
        digest = hashlib.sha256("\n".join(words).encode()).digest()
        return np.random.default_rng([self.seed, int.from_bytes(digest[:8], "big")])


@dataclass(frozen=True)
class _Unusable:
    """A clip that gives no vector."""

    piece: Piece  # the unreadable one
    reason: str
    rest: Clip  # the other pieces of the clip


class _Voice:
    """A sample of one speaker's pieces: all, or those with the smallest hashes."""

    def __init__(self) -> None:
        self._heaps: tuple[list[tuple[int, int, Piece]], ...] = ([], [])  # short, long: (-hash, number, piece)
        self._count = 0

    def add(self, piece: Piece, seed: int) -> None:
        heap = self._heaps[piece.seconds >= MIN_CLIP_S]
        self._count += 1
        name = f"{seed}\n{piece.key}\n{piece.start}".encode()
        entry = (-int.from_bytes(hashlib.blake2b(name, digest_size=8).digest(), "big"), self._count, piece)
        if len(heap) < PIECES_KEPT:
            heapq.heappush(heap, entry)
        else:
            heapq.heappushpop(heap, entry)

    def pieces(self) -> list[Piece]:
        """Return the pieces in the order of the manifests."""
        return [piece for _, _, piece in sorted((e for heap in self._heaps for e in heap), key=lambda e: e[1])]


def load_clip(clip: Clip) -> np.ndarray:
    """Load a clip: (n,) float32 at 16 kHz, cut to whole quarter seconds from 2 s on, so that clips share batches."""
    wave = np.concatenate([piece.load() for piece in clip])
    if wave.size < MIN_CLIP_S * SAMPLE_RATE:
        return wave
    return wave[: wave.size // QUANTUM * QUANTUM]


def _is_readable(piece: Piece) -> bool:
    try:
        return bool(piece.load().size)
    except DataError:
        return False


def load_features(clips: Sequence[Clip]) -> Iterator[np.ndarray | DataError]:
    """Compute the log-mel features of clips; an unreadable clip gives its error."""
    for clip in clips:
        try:
            yield log_mel(load_clip(clip))
        except DataError as error:
            yield error


def _pieces_of(recording: Recording) -> Iterator[tuple[str, Piece]]:
    """Yield (speaker, piece) of every segment."""
    for s in recording.segments:
        first, last = recording.start + s.start, recording.start + s.end
        yield s.speaker, Piece(recording.key, recording.session, recording.audio, recording.channel, first, last)


def _single_voice(recording: Recording) -> Iterator[tuple[str, Piece]]:
    """Yield (speaker, piece) of segments of known speakers during which no other speaks."""
    segments = recording.segments
    for segment, (speaker, piece) in zip(segments, _pieces_of(recording), strict=True):
        alone = not any(s.speaker != speaker and s.start < segment.end and segment.start < s.end for s in segments)
        if alone and is_known(speaker):
            yield speaker, piece


def _cut(pieces: Sequence[Piece], rng: np.random.Generator) -> list[Clip]:
    """Cut pieces of one speaker into clips of 2–10 s in random order; shorter only if there is less speech.

    Long pieces are split evenly. Joined short ones are added only if there are too few single ones.
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


def _overlaps(clip: Clip, recording: Recording) -> bool:
    """Return whether the recording contains speech of the clip, or was mixed from it."""
    keys = {recording.key, *recording.sources}
    end = float("inf") if recording.duration is None else recording.start + recording.duration
    return any(
        p.key in keys or (_same_time_line(p, recording) and p.start < end and recording.start < p.end) for p in clip
    )


def _same_time_line(piece: Piece, recording: Recording) -> bool:
    """Return whether both are of one session, or of one file, which another corpus may name otherwise."""
    if piece.session == recording.session:
        return True
    return piece.audio == recording.audio and (
        None in (piece.channel, recording.channel) or piece.channel == recording.channel
    )
