"""Conditioning of recordings: trimming to the speech, high-pass, level."""

import numpy as np
import pytest

from shards.errors import AudioError
from shards.sample import SAMPLE_RATE
from shards.sound.conditioning import condition, frame_levels, high_pass, set_level, speech_bounds
from tests.support.manifests import tone


def quiet(seconds: float) -> np.ndarray:
    return 1e-4 * np.random.default_rng(1).standard_normal(round(seconds * SAMPLE_RATE))


def test_speech_bounds_exclude_clicks() -> None:
    click = 0.5 * np.ones(300)
    wave = np.concatenate([click, quiet(0.3), tone(0.5), quiet(0.4)]).astype(np.float32)
    first, last = speech_bounds(wave)
    assert first / SAMPLE_RATE == pytest.approx(0.31, abs=0.04)
    assert last / SAMPLE_RATE == pytest.approx(0.83, abs=0.04)


def test_speech_bounds_include_a_final_plosive() -> None:
    burst = 0.1 * np.random.default_rng(0).standard_normal(SAMPLE_RATE * 6 // 100)
    wave = np.concatenate([quiet(0.1), tone(0.4), quiet(0.1), burst, quiet(0.2)]).astype(np.float32)
    assert speech_bounds(wave)[1] / SAMPLE_RATE == pytest.approx(0.68, abs=0.03)


def test_tightly_cut_speech_is_not_trimmed() -> None:
    wave = tone(0.4).astype(np.float32)
    assert speech_bounds(wave) == (0, len(wave))


def test_silence_is_an_error() -> None:
    with pytest.raises(AudioError, match="silence"):
        condition(np.zeros(SAMPLE_RATE, np.float32))


@pytest.mark.parametrize("samples", [5, 1601, 40_009])
def test_high_pass_transforms_lengths_without_large_prime_factors(samples, monkeypatch) -> None:
    lengths = []
    transform = np.fft.rfft
    monkeypatch.setattr(np.fft, "rfft", lambda wave: (lengths.append(len(wave)), transform(wave))[1])
    wave = np.random.default_rng(0).standard_normal(samples).astype(np.float32)
    assert len(high_pass(wave)) == samples
    assert lengths[0] % 1600 == 0


def test_high_pass_removes_offset_and_hum_only() -> None:
    speech = tone(1.0, pitch=300.0)
    hum = 0.2 + 0.1 * np.sin(2 * np.pi * 30 * np.arange(SAMPLE_RATE) / SAMPLE_RATE)
    clean = high_pass((speech + hum).astype(np.float32))
    assert abs(clean.mean()) < 1e-3
    assert np.sqrt(np.mean((clean - speech)[1600:-1600] ** 2)) < 0.02


def test_set_level() -> None:
    for gain in (0.01, 1.0):
        assert frame_levels(set_level((tone(0.5) * gain).astype(np.float32))).max() == pytest.approx(-26, abs=0.6)
    assert np.abs(set_level(np.eye(1, 1600, 5, dtype=np.float32)[0])).max() <= 1.0
