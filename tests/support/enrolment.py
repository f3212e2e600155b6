"""Recordings of one voice on disk, conversations that need enrolment, and a stand-in that takes features."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import soundfile

from shards.manifests.manifest import Recording, SpeakerInfo, write_manifest
from shards.sample import SAMPLE_RATE, Segment
from shards.voices.features import log_mel, unit_norm
from tests.support.manifests import tone
from tests.support.speech import PitchExtractor


def speak(folder: Path, key: str, speaker: str, seconds: float, pitch: float, **changes: object) -> Recording:
    """A recording of one speaker, a tone, on disk."""
    path = folder / f"{key}.flac"
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, tone(seconds, pitch=pitch, seed=len(key)), SAMPLE_RATE)
    made = Recording(key, "toy", "all", key, "en", str(path), (Segment(speaker, 0.0, seconds, "x"),), duration=seconds)
    return replace(made, **changes)  # type: ignore[arg-type]


def two_voices(folder: Path) -> Path:
    """A manifest folder: toy:a has long, toy:b only short recordings."""
    long = [speak(folder, f"a{i}", "toy:a", 3.0 + i, 200 + 2 * i) for i in range(4)]
    short = [speak(folder, f"b{i}", "toy:b", 0.5, 900) for i in range(9)]
    write_manifest(folder, [*long, *short], [SpeakerInfo(s, "toy", "en", None, s) for s in ("toy:a", "toy:b")], {})
    return folder


def conversation(key: str, *speakers: str, sources: tuple[str, ...] = ()) -> Recording:
    segments = tuple(Segment(s, float(i), i + 1.0, "x") for i, s in enumerate(speakers))
    return Recording(key, "sim", "train", key, "en", "/nowhere.flac", segments, duration=9.0, sources=sources)


class Frames(PitchExtractor):
    """Takes features, as a network does."""

    def embed(self, waves: Sequence[np.ndarray]) -> np.ndarray:
        return self.embed_features([log_mel(w) for w in waves])

    def embed_features(self, features: Sequence[np.ndarray]) -> np.ndarray:
        return unit_norm(self.means(features))

    def means(self, features: Sequence[np.ndarray]) -> np.ndarray:
        return np.stack([np.exp(f).mean(0) for f in features])
