"""Augmentation of training audio: speed, noise, SpecAugment. Keyed by (seed, epoch, sample) like every other draw.

Speed changes the length of a sample, so the plan draws it and knows the length exactly. Noise is added to the waveform
in the worker. SpecAugment's spans are drawn in the worker and applied on the device, where the features are made.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import soundfile
import soxr

from pipeline.data.keyed_random import keyed_rng, keyed_uniform
from pipeline.frames import N_MELS, encoder_frames, perturbed_samples
from pipeline.recipe.schema import AugmentConfig
from shards.errors import ConfigError
from shards.sample import SAMPLE_RATE
from shards.storage.folders import files_below

SUFFIXES = (".flac", ".wav")


def draw_speed(speeds: list[float], *key: object) -> float:
    """One of the factors, each as likely as the others."""
    return speeds[int(keyed_uniform(*key, "speed") * len(speeds))] if len(speeds) > 1 else speeds[0]


class Noises:
    """A folder of 16 kHz mono recordings.

    Raises:
        ConfigError: it holds none.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self.files = [p for p in files_below(self.folder) if p.suffix.lower() in SUFFIXES]
        if not self.files:
            raise ConfigError(f"data.augment.noise: no {' or '.join(SUFFIXES)} file in {folder}")

    @property
    def fingerprint(self) -> str:
        """Hash of names and sizes: with other files a sample would get another noise."""
        listed = "\n".join(f"{p.relative_to(self.folder).as_posix()} {p.stat().st_size}" for p in self.files)
        return hashlib.sha256(listed.encode()).hexdigest()[:16]

    def excerpt(self, rng: np.random.Generator, length: int) -> np.ndarray:
        """(length,) float32 from a random place of a random file; a file that is too short is repeated.

        Raises:
            ConfigError: the file is unreadable, or not 16 kHz mono.
        """
        path = self.files[int(rng.integers(len(self.files)))]
        try:
            with soundfile.SoundFile(path) as file:
                if (file.samplerate, file.channels) != (SAMPLE_RATE, 1) or not file.frames:
                    raise ConfigError(
                        f"{path}: {file.frames} frames of {file.samplerate} Hz with {file.channels} channels; "
                        f"noise must be {SAMPLE_RATE} Hz mono"
                    )
                file.seek(int(rng.integers(max(1, file.frames - length + 1))))
                wave = file.read(min(length, file.frames), dtype="float32")
        except (soundfile.SoundFileError, OSError) as e:
            raise ConfigError(f"{path}: noise cannot be read ({e}); repair or remove it") from e
        return np.resize(wave, length)


class Augmenter:
    """Applies what a recipe asks for. Safe to hand to another process."""

    def __init__(self, config: AugmentConfig) -> None:
        self.config = config
        self.noises = Noises(config.noise) if config.noise else None

    def wave(self, wave: np.ndarray, speed: float, seed: int) -> np.ndarray:
        """The waveform at another speed, with noise; ``perturbed_samples`` long. May write into its argument."""
        if speed != 1.0:
            wave = change_speed(wave, speed)
        if self.noises is not None:
            rng = keyed_rng(seed, "noise")
            snr = self.config.noise_snr[0], self.config.noise_snr[1]
            if rng.random() < self.config.noise_probability:
                wave = add_noise(wave, self.noises.excerpt(rng, len(wave)), float(rng.uniform(*snr)))
        return wave

    def masks(self, num_samples: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
        """Spans [begin, end) of encoder frames and of mel channels to be masked: int64 (K, 2) each."""
        c = self.config
        rng = keyed_rng(seed, "masks")
        frames = _spans(rng, c.frame_masks, c.frame_mask_width, encoder_frames(num_samples))
        return frames, _spans(rng, c.mel_masks, c.mel_mask_width, N_MELS)


def change_speed(wave: np.ndarray, speed: float) -> np.ndarray:
    """Played faster (above 1) or slower, pitch included, as Kaldi's speed perturbation."""
    length = perturbed_samples(len(wave), speed)
    out = np.asarray(soxr.resample(wave, SAMPLE_RATE * speed, SAMPLE_RATE, quality="HQ"), np.float32)[:length]
    return np.pad(out, (0, length - len(out)))  # soxr may round the other way


def add_noise(wave: np.ndarray, noise: np.ndarray, snr: float) -> np.ndarray:
    """The sum at this signal-to-noise ratio in dB, scaled down where it would leave [-1, 1]."""
    power, noise_power = float(np.mean(wave**2)), float(np.mean(noise**2))
    if power == 0 or noise_power == 0:
        return wave
    mixed = wave + noise * np.float32((power / noise_power / 10 ** (snr / 10)) ** 0.5)
    return np.asarray(mixed / max(1.0, float(np.abs(mixed).max())), np.float32)


def _spans(rng: np.random.Generator, count: int, width: int, size: int) -> np.ndarray:
    """Widths uniform in 0..width, then places uniform where they fit."""
    widths = np.minimum(rng.integers(0, width + 1, count), size)
    begins = rng.integers(0, size - widths + 1)
    return np.stack([begins, begins + widths], 1).astype(np.int64)
