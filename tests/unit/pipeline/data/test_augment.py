"""Augmentation: exact lengths, the asked-for level of noise, spans inside the features, all of it keyed."""

from __future__ import annotations

import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.data.augment import Augmenter, Noises, add_noise, change_speed, draw_speed
from pipeline.frames import encoder_frames, perturbed_samples
from pipeline.recipe.schema import AugmentConfig
from shards.errors import ConfigError


def tone(seconds: float, frequency: float = 200.0, level: float = 0.3) -> np.ndarray:
    time = np.arange(round(seconds * 16_000)) / 16_000
    return (level * np.sin(2 * np.pi * frequency * time)).astype(np.float32)


@pytest.fixture
def noises(tmp_path):
    rng = np.random.default_rng(0)
    for i, seconds in enumerate((0.2, 3.0)):
        soundfile.write(tmp_path / f"n{i}.wav", 0.05 * rng.standard_normal(round(seconds * 16_000)), 16_000)
    return tmp_path


@settings(deadline=None, max_examples=60)
@given(samples=st.integers(1, 40_000), speed=st.sampled_from([0.5, 0.9, 0.95, 1.05, 1.1, 1.9]))
def test_another_speed_gives_exactly_the_planned_length(samples, speed):
    wave = np.random.default_rng(samples).standard_normal(samples).astype(np.float32)
    changed = change_speed(wave, speed)
    assert changed.dtype == np.float32
    assert len(changed) == perturbed_samples(samples, speed)


def test_faster_means_shorter_and_higher():
    changed = change_speed(tone(2.0), 1.25)
    spectrum = np.abs(np.fft.rfft(changed))
    assert np.fft.rfftfreq(len(changed), 1 / 16_000)[spectrum.argmax()] == pytest.approx(250, abs=1)


def test_speeds_are_drawn_evenly_and_by_key():
    drawn = [draw_speed([0.9, 1.0, 1.1], 1, 0, f"key{i}") for i in range(3000)]
    assert drawn == [draw_speed([0.9, 1.0, 1.1], 1, 0, f"key{i}") for i in range(3000)]
    for speed in (0.9, 1.0, 1.1):
        assert abs(drawn.count(speed) - 1000) < 3 * (3000 * 2 / 9) ** 0.5


@pytest.mark.parametrize("snr", [0.0, 10.0, 20.0])
def test_noise_has_the_level_that_was_asked_for(snr):
    wave, noise = tone(1.0, level=0.1), np.random.default_rng(1).standard_normal(16_000).astype(np.float32)
    added = add_noise(wave, noise, snr) - wave
    assert 10 * np.log10(np.mean(wave**2) / np.mean(added**2)) == pytest.approx(snr, abs=0.01)


def test_loud_sums_stay_within_full_scale():
    assert np.abs(add_noise(tone(1.0, level=0.99), tone(1.0, 300.0), 0.0)).max() <= 1.0


def test_silence_is_left_alone():
    assert not add_noise(np.zeros(100, np.float32), tone(1.0)[:100], 5.0).any()


def test_noise_is_drawn_by_the_sample_s_seed_and_short_files_repeat(noises):
    augmenter = Augmenter(AugmentConfig(noise=str(noises), noise_probability=1.0))
    outs = [augmenter.wave(tone(1.0), 1.0, seed) for seed in (1, 1, 2)]
    assert np.array_equal(outs[0], outs[1])
    assert not np.array_equal(outs[0], outs[2])
    rng = np.random.Generator(np.random.Philox(key=3))
    assert {len(Noises(noises).excerpt(rng, 16_000)) for _ in range(20)} == {16_000}


def test_noise_behind_a_link_is_used(noises, tmp_path_factory):
    folder = tmp_path_factory.mktemp("linked")
    (folder / "noises").symlink_to(noises)
    assert len(Noises(folder).files) == len(Noises(noises).files)


def test_noise_comes_with_the_asked_for_probability(noises):
    augmenter = Augmenter(AugmentConfig(noise=str(noises), noise_probability=0.25))
    clean = tone(0.05)
    changed = sum(not np.array_equal(augmenter.wave(clean.copy(), 1.0, seed), clean) for seed in range(800))
    assert abs(changed - 200) < 3 * (800 * 0.25 * 0.75) ** 0.5


def test_a_folder_without_noise_and_noise_of_another_rate_are_errors(tmp_path):
    with pytest.raises(ConfigError, match=r"data\.augment\.noise"):
        Noises(tmp_path)
    soundfile.write(tmp_path / "n.wav", tone(1.0), 8_000)
    with pytest.raises(ConfigError, match=r"n\.wav.*8000 Hz"):
        Augmenter(AugmentConfig(noise=str(tmp_path), noise_probability=1.0)).wave(tone(1.0), 1.0, 1)
    (tmp_path / "n.wav").write_bytes(b"RIFF")
    with pytest.raises(ConfigError, match=r"n\.wav"):
        Augmenter(AugmentConfig(noise=str(tmp_path), noise_probability=1.0)).wave(tone(1.0), 1.0, 1)


def test_other_noise_files_have_another_fingerprint(noises):
    before = Noises(noises).fingerprint
    assert Noises(noises).fingerprint == before
    soundfile.write(noises / "more.wav", tone(0.5), 16_000)
    assert Noises(noises).fingerprint != before


@settings(deadline=None, max_examples=60)
@given(samples=st.integers(400, 200_000), seed=st.integers(0, 2**63), count=st.integers(0, 4))
def test_masks_are_inside_the_features(samples, seed, count):
    augmenter = Augmenter(AugmentConfig(frame_masks=count, mel_masks=2, frame_mask_width=40))
    frames, mels = augmenter.masks(samples, seed)
    assert (frames.shape, mels.shape) == ((count, 2), (2, 2))
    for spans, size, width in ((frames, encoder_frames(samples), 40), (mels, 80, 30)):
        assert (spans >= 0).all()
        assert (spans <= size).all()
        assert (spans[:, 1] - spans[:, 0] >= 0).all()
        assert (spans[:, 1] - spans[:, 0] <= width).all()
    assert all(np.array_equal(a, b) for a, b in zip(augmenter.masks(samples, seed), (frames, mels), strict=True))


def test_off_is_the_default_and_changes_nothing():
    augmenter, wave = Augmenter(AugmentConfig()), tone(1.0)
    assert augmenter.wave(wave, 1.0, 7) is wave
    assert [m.shape for m in augmenter.masks(len(wave), 7)] == [(0, 2), (0, 2)]
