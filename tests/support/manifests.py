"""Small synthetic manifests: tones over noise in the audio forms that a corpus may have."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import soundfile

from shards.manifests.manifest import Recording, SpeakerInfo, write_manifest
from shards.sample import SAMPLE_RATE, Segment


def tone(seconds: float, rate: int = SAMPLE_RATE, channels: int = 1, pitch: float = 220.0, seed: int = 0) -> np.ndarray:
    """A synthetic tone with a little noise, float64 (frames,) or (frames, channels)."""
    time = np.arange(round(seconds * rate)) / rate
    noise = 0.01 * np.random.default_rng(seed).standard_normal((len(time), channels))
    wave = 0.3 * np.sin(2 * np.pi * pitch * time)[:, None] + noise
    return wave[:, 0] if channels == 1 else wave


def recording(audio: str | Path, **changes: Any) -> Recording:
    """A record of one segment; the audio need not exist."""
    fields = {"key": "a-1", "corpus": "c", "split": "train", "session": "s", "language": "zh", "audio": str(audio)}
    return Recording(**(fields | {"segments": (Segment("c:A", 0.0, 1.5, "你好"),)} | changes))


def make_manifest(folder: Path, count: int = 12, *, seconds: float = 0.6) -> list[Recording]:
    """Write a manifest of `count` synthetic recordings: target-form FLAC, 8 kHz, 44.1 kHz stereo, a part of a file."""
    folder.mkdir(parents=True, exist_ok=True)
    recordings = []
    for number in range(count):
        speaker, kind = f"synthetic:S{number % 5}", number % 4
        path = folder / f"audio-{number:03d}.{'flac' if kind == 0 else 'wav'}"
        rate, channels = ((16_000, 1), (8_000, 1), (44_100, 2), (16_000, 1))[kind]
        length = seconds + 0.05 * number
        wave = tone(length + (1.0 if kind == 3 else 0.0), rate, channels, 200.0 + 20 * (number % 5), number)
        soundfile.write(path, wave, rate, subtype="PCM_16")
        recordings.append(
            Recording(
                key=f"synthetic-{number:03d}",
                corpus="synthetic",
                split="train",
                session=f"session-{number // 3}",
                language="zh",
                audio=str(path.absolute()),
                segments=(
                    Segment(speaker, 0.3, length, "第二段"),
                    Segment(f"synthetic:S{(number + 1) % 5}", 0.0, 0.25, "第一段"),
                ),
                start=0.5 if kind == 3 else 0.0,
                duration=length if kind == 3 else None,
                channel=1 if kind == 2 else None,
            )
        )
    speakers = [SpeakerInfo(f"synthetic:S{i}", "synthetic", "zh", None, f"person-{i}") for i in range(5)]
    write_manifest(folder, recordings, speakers, {"clip_rule": "none", "normaliser": "none"})
    return recordings
