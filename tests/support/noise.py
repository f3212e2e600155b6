"""Manifests of audio that does not compress: shards of megabytes from seconds of audio, ready to be copied."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import soundfile

from shards.manifests.manifest import Recording, write_manifest
from shards.sample import SAMPLE_RATE, Segment


def make_noise_manifest(folder: Path, count: int, seconds: float) -> None:
    """`count` recordings of white noise, 32 kB a second, in the form that is copied into shards."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(1)
    recordings = []
    for number in range(count):
        path = folder / f"noise-{number:04d}.flac"
        wave = rng.integers(-20_000, 20_000, round(seconds * SAMPLE_RATE)).astype(np.int16)
        soundfile.write(path, wave, SAMPLE_RATE, subtype="PCM_16")
        segments = (Segment(f"noise:S{number % 7}", 0.0, seconds, "噪声"),)
        recordings.append(
            Recording(f"noise-{number:04d}", "noise", "train", f"s-{number // 3}", "zh", str(path.absolute()), segments)
        )
    write_manifest(folder, recordings, [], {})
