"""Chunks of speech without a pause."""

from __future__ import annotations

import numpy as np

from pipeline.transcribe.chunks import Chunker
from pipeline.transcribe.vad import WINDOW
from shards.manifests.clips import ClipRule
from shards.sample import SAMPLE_RATE


class AlwaysSpeech:
    """A detector that hears somebody in every window."""

    def probabilities(self, wave: np.ndarray) -> np.ndarray:
        return np.ones(len(wave) // WINDOW, np.float32)


def test_range_of_one_length_cuts_without_a_pause() -> None:
    wave = np.random.default_rng(1).normal(0, 0.1, 9 * SAMPLE_RATE).astype(np.float32)
    chunks = list(Chunker(AlwaysSpeech(), ClipRule((2.0, 2.0), (1.5, 2.4))).cut([wave]))
    assert len(chunks) >= 4
    assert abs(sum(c.end - c.start for c in chunks) - 9.0) < 0.1
    assert all(c.end - c.start < 2.5 for c in chunks[:-1])
