"""Noise: recorded, babble, coloured."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile

from shards.errors import ConfigError
from shards.manifests.manifest import (
    read_manifest,
)
from shards.sample import SAMPLE_RATE
from shards.simulation.noise import add_noise, coloured_noise, open_noise
from shards.simulation.simulate import simulate
from shards.sound.audio import load
from tests.support.conversations import PERSONS, SHORT


def test_snr_of_a_noise_folder_in_written_files(words: Path, tmp_path: Path) -> None:
    """Files with and without noise differ by the noise only, whose level is U[10, 20] dB below the speech."""
    rng = np.random.default_rng(5)
    for name, seconds in (("street", 3.0), ("fan", 60.0)):  # the first is shorter than a conversation
        (tmp_path / "noise").mkdir(exist_ok=True)
        soundfile.write(tmp_path / "noise" / f"{name}.wav", rng.standard_normal(round(seconds * 8000)) * 0.1, 8000)
    calm = replace(SHORT, pause=0.05, overlap=0.0, utterances_per_turn=(1, 1))
    simulate([words], tmp_path / "clean" / "s", calm, count=40)
    simulate([words], tmp_path / "noisy" / "s", replace(calm, noise=str(tmp_path / "noise")), count=40)
    measured = []
    for clean, noisy in zip(*(read_manifest(tmp_path / n / "s") for n in ("clean", "noisy")), strict=True):
        assert clean.segments == noisy.segments
        a, b = load(clean.audio), load(noisy.audio)
        spoken = np.zeros(len(a), bool)
        for s in clean.segments:
            spoken[round(s.start * SAMPLE_RATE) : round(s.end * SAMPLE_RATE)] = True
        scale = np.dot(a, b) / np.dot(a, a)
        measured.append(10 * np.log10(np.mean(a[spoken] ** 2) / np.mean((b / scale - a) ** 2)))
    assert 9.5 < min(measured) < 11.5
    assert 18.5 < max(measured) < 20.5
    assert np.mean(measured) == pytest.approx(15, abs=1.5)


def test_babble_excludes_the_persons_of_the_conversation(words: Path) -> None:
    noise = open_noise(f"babble:{words}")
    assert noise is not None
    assert len(noise(np.random.default_rng(0), 5000, ["ann", "bob"])) == 5000
    with pytest.raises(ConfigError, match="every person"):
        noise(np.random.default_rng(0), 5000, set(PERSONS))


def test_silent_noise_is_rejected() -> None:
    with pytest.raises(ConfigError, match="silent"):
        add_noise(np.ones(10, np.float32), np.zeros(10, np.float32), np.ones(10, bool), 10.0)
    assert np.mean(coloured_noise(np.random.default_rng(0), 16000) ** 2) == pytest.approx(1, rel=1e-3)
