"""The sample: the record that packer and trainer share, and its members in a tar.

A sample with key ``KEY`` is two or three consecutive tar members:

====================  =================================================================================
``KEY.flac``          16 kHz mono 16-bit FLAC
``KEY.json``          everything else, UTF-8, keys sorted (bytes are a function of the content)
``KEY.npy``           multi-speaker data only: (n_speakers, dim) float16, rows in the order of ``speakers``
====================  =================================================================================

WebDataset splits a member's name at its first dot, so a key contains none; it contains no slash either.
"""

from __future__ import annotations

import io
import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from pydantic_core import from_json  # a third of json's time

from shards.errors import ManifestError, SpeakerError

FORMAT_VERSION = 1
SAMPLE_RATE = 16_000
UNKNOWN = "unknown"  # "CORPUS:unknown" is no single voice: usable for recognition, not for enrolment or simulation
MALE, FEMALE = "male", "female"
_GENDERS = {
    word: gender
    for gender, words in ((MALE, ("male", "m", "man", "男", "男性")), (FEMALE, ("female", "f", "woman", "女", "女性")))
    for word in words
}
_KEY = re.compile(r"[^./\\\s]+")
_to_json = json.JSONEncoder(ensure_ascii=False, sort_keys=True, separators=(",", ":")).encode


@dataclass(frozen=True, slots=True)
class Segment:
    """Speech of one speaker; times in seconds from the start of the audio."""

    speaker: str  # global id, "corpus:speaker", or "corpus:session:speaker" if the corpus reuses ids across sessions
    start: float
    end: float
    text: str


def gender_of(text: object) -> str | None:
    """Return :data:`MALE` or :data:`FEMALE` for a gender as corpora write it (``F``, ``male``, ``女``); else None."""
    return _GENDERS.get(text.strip().lower()) if isinstance(text, str) else None


def is_known(speaker: str) -> bool:
    """Return whether a speaker id is a single voice, not ``CORPUS:unknown``."""
    return not speaker.endswith(f":{UNKNOWN}")


@dataclass(frozen=True, slots=True)
class Sample:
    """One training or test example: audio, who said what, and one vector per speaker."""

    key: str
    corpus: str
    split: str
    session: str
    language: str
    start: float  # of the audio in the session, seconds
    num_samples: int  # audio length at 16 kHz
    segments: tuple[Segment, ...]  # in order of start time
    audio: bytes  # FLAC
    embeddings: np.ndarray | None = None  # (n_speakers, dim) float16, unit norm
    genders: Mapping[str, str] = field(default_factory=dict)  # speaker id → MALE or FEMALE, without the unknown ones

    @property
    def duration(self) -> float:
        """Length of the audio in seconds."""
        return self.num_samples / SAMPLE_RATE

    @property
    def speakers(self) -> tuple[str, ...]:
        """Speaker ids in order of first appearance: ``spk0`` is the first of them."""
        return tuple(dict.fromkeys(s.speaker for s in self.segments))

    def validate(self) -> None:
        """Check that the sample is consistent.

        Raises:
            ManifestError, SpeakerError: it contradicts itself.
        """
        if not _KEY.fullmatch(self.key):
            raise ManifestError(f"key {self.key!r}: a key must not be empty or contain a dot, slash or white space")
        if self.num_samples <= 0:
            raise ManifestError(f"{self.key}: audio of {self.num_samples} samples")
        for s in self.segments:
            if not (math.isfinite(s.start) and math.isfinite(s.end) and 0 <= s.start < s.end <= self.duration + 0.05):
                raise ManifestError(
                    f"{self.key}: segment of {s.speaker} at {s.start}–{s.end} s is outside 0–{self.duration:.3f} s"
                )
        if any(a.start > b.start for a, b in zip(self.segments, self.segments[1:], strict=False)):
            raise ManifestError(f"{self.key}: segments are not in order of start time")
        if wrong := [s for s, g in self.genders.items() if g not in (MALE, FEMALE) or s not in self.speakers]:
            raise ManifestError(
                f"{self.key}: gender {self.genders[wrong[0]]!r} of {wrong[0]} is not {MALE} or {FEMALE}, or not of a "
                "speaker of this sample"
            )
        if self.embeddings is not None:
            if self.embeddings.ndim != 2 or len(self.embeddings) != len(self.speakers):
                raise SpeakerError(
                    f"{self.key}: embeddings of shape {self.embeddings.shape} for {len(self.speakers)} speakers"
                )
            if not np.isfinite(self.embeddings).all():
                raise SpeakerError(f"{self.key}: a speaker vector is not finite")

    def members(self) -> dict[str, bytes]:
        """Return extension → bytes, in the order of the tar."""
        meta = {
            "version": FORMAT_VERSION,
            "corpus": self.corpus,
            "split": self.split,
            "session": self.session,
            "language": self.language,
            "start": self.start,
            "num_samples": self.num_samples,
            "duration": self.duration,
            "speakers": self.speakers,
            "segments": [{"speaker": s.speaker, "start": s.start, "end": s.end, "text": s.text} for s in self.segments],
        }
        if self.genders:
            meta["genders"] = dict(self.genders)
        out = {
            "flac": self.audio,
            "json": _to_json(meta).encode(),
        }
        if self.embeddings is not None:
            buffer = io.BytesIO()
            np.save(buffer, np.ascontiguousarray(self.embeddings, dtype=np.float16))
            out["npy"] = buffer.getvalue()
        return out

    @classmethod
    def from_members(cls, key: str, members: dict[str, bytes]) -> Sample:
        """Parse tar members; the inverse of :meth:`members`."""
        meta = parse_meta(key, members["json"])
        embeddings = np.load(io.BytesIO(members["npy"]), allow_pickle=False) if "npy" in members else None
        return cls(
            key=key,
            corpus=meta["corpus"],
            split=meta["split"],
            session=meta["session"],
            language=meta["language"],
            start=meta["start"],
            num_samples=meta["num_samples"],
            segments=tuple(Segment(**s) for s in meta["segments"]),
            audio=members["flac"],
            embeddings=embeddings,
            genders=meta.get("genders", {}),
        )

    def with_embeddings(self, embeddings: np.ndarray | None) -> Sample:
        """Return the sample with other speaker vectors."""
        return replace(self, embeddings=embeddings)


def parse_meta(key: str, data: bytes) -> dict[str, Any]:
    """Parse the ``KEY.json`` member.

    Raises:
        ManifestError: unsupported format version.
    """
    meta = from_json(data)
    if meta.get("version") != FORMAT_VERSION:
        raise ManifestError(
            f"{key}: sample format version {meta.get('version')}, this code reads {FORMAT_VERSION}; run pack again"
        )
    return meta
