"""Sound of conversations: sum of the sources, level of the noise."""

from dataclasses import replace

import numpy as np
import pytest

from shards.simulation.noise import open_noise
from shards.simulation.render import render
from shards.simulation.utterance_pool import UtterancePool
from shards.sound.audio import load
from tests.support.conversations import SHORT, layouts


def test_audio_is_the_sum_of_the_placed_utterances(sources: UtterancePool) -> None:
    layout = next(x for x in layouts(sources, replace(SHORT, overlap=1.0)) if len(x.turns) == 5)
    expected = np.zeros(layout.num_samples)
    for piece in (p for t in layout.turns for p in t.pieces):
        wave = load(piece.utterance.audio)
        expected[piece.start : piece.start + len(wave)] += wave
    assert np.abs(render(layout, SHORT) - expected).max() < 1e-6


def test_snr_is_the_requested_one(sources: UtterancePool) -> None:
    layout = layouts(sources, SHORT, 1)[0]
    clean = render(layout, SHORT)
    spoken = np.zeros(layout.num_samples, bool)
    for piece in (p for t in layout.turns for p in t.pieces):
        spoken[piece.start : piece.start + piece.utterance.num_samples] = True
    for asked in (0.0, 10.0, 20.0):
        noisy = render(layout, replace(SHORT, noise="coloured", snr_db=(asked, asked)), open_noise("coloured"))
        scale = np.dot(noisy, clean) / np.dot(clean, clean)  # the mixture may have been scaled as a whole
        noise = noisy / scale - clean
        measured = 10 * np.log10(np.mean(clean[spoken] ** 2) / np.mean(noise**2))
        assert measured == pytest.approx(asked, abs=0.3)
