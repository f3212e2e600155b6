"""Makes recordings of different origin alike: no hum or offset, no silence around the speech, one level."""

from __future__ import annotations

import numpy as np

from shards.errors import AudioError
from shards.sample import SAMPLE_RATE

FRAME = SAMPLE_RATE // 100  # 10 ms
BELOW_PEAK_DB, ABOVE_FLOOR_DB, AT_LEAST_DB = 35.0, 10.0, 25.0
FIRST_CLICK_FRAMES, LAST_CLICK_FRAMES, CLICK_GAP_FRAMES = 5, 3, 5
MARGIN_FRAMES = 2
LEVEL_DB = -26.0


def high_pass(wave: np.ndarray, low: float = 50.0, high: float = 80.0) -> np.ndarray:
    """(n,) → (n,) float32 without anything below `low` Hz; raised-cosine slope to `high` Hz, no phase shift."""
    pad = min(len(wave) - 1, SAMPLE_RATE // 10)
    padded = np.pad(wave, pad, mode="reflect", reflect_type="odd") if pad > 0 else wave
    spectrum = np.fft.rfft(padded)
    frequency = np.fft.rfftfreq(len(padded), 1 / SAMPLE_RATE)
    spectrum *= 0.5 - 0.5 * np.cos(np.pi * np.clip((frequency - low) / (high - low), 0, 1))
    return np.fft.irfft(spectrum, len(padded))[pad : pad + len(wave)].astype(np.float32)


def frame_levels(wave: np.ndarray) -> np.ndarray:
    """RMS in dB of full scale per 10 ms frame; what remains at the end is a frame of its own."""
    padded = np.pad(wave, (0, -len(wave) % FRAME)).reshape(-1, FRAME)
    counts = np.full(len(padded), FRAME)
    counts[-1] = len(wave) - FRAME * (len(padded) - 1)
    return np.asarray(10 * np.log10((padded.astype(np.float64) ** 2).sum(1) / counts + 1e-12))


def speech_bounds(wave: np.ndarray) -> tuple[int, int]:
    """First and last + 1 sample of the speech in a recording of one utterance.

    A frame is speech where it is less than 35 dB below the loudest and more than 10 dB above the floor (5th
    percentile); the floor never asks for more than 25 dB below the loudest, since a recording that was cut tightly has
    no silence to measure. What stands more than 50 ms before or after the rest is a click if it lasts at most 50 ms
    at the beginning or 30 ms at the end (a final plosive lasts longer). 20 ms are kept on each side.

    Raises:
        AudioError: nothing but silence.
    """
    levels = frame_levels(wave)
    peak, floor = float(levels.max()), float(np.percentile(levels, 5))
    if peak < -70:
        raise AudioError("nothing but silence")
    threshold = min(max(peak - BELOW_PEAK_DB, floor + ABOVE_FLOOR_DB), peak - AT_LEAST_DB)
    active = np.flatnonzero(levels > threshold)
    runs = np.split(active, np.flatnonzero(np.diff(active) > 1) + 1)
    while len(runs) > 1 and len(runs[0]) <= FIRST_CLICK_FRAMES and runs[1][0] - runs[0][-1] > CLICK_GAP_FRAMES:
        runs = runs[1:]
    while len(runs) > 1 and len(runs[-1]) <= LAST_CLICK_FRAMES and runs[-1][0] - runs[-2][-1] > CLICK_GAP_FRAMES:
        runs = runs[:-1]
    first, last = runs[0][0] - MARGIN_FRAMES, runs[-1][-1] + 1 + MARGIN_FRAMES
    return max(0, int(first) * FRAME), min(len(wave), int(last) * FRAME)


def set_level(wave: np.ndarray, level_db: float = LEVEL_DB) -> np.ndarray:
    """Scale to an RMS of `level_db` dB of full scale over the frames within 25 dB of the loudest; peaks stay < 1."""
    levels = frame_levels(wave)
    loud = levels[levels > levels.max() - AT_LEAST_DB]
    rms = np.sqrt(np.mean(10 ** (loud / 10)))
    gain = min(10 ** (level_db / 20) / rms, 0.98 / max(float(np.abs(wave).max()), 1e-9))
    return np.asarray(wave * gain, dtype=np.float32)


def condition(wave: np.ndarray) -> np.ndarray:
    """High-pass, trim to the speech, set the level."""
    clean = high_pass(wave)
    first, last = speech_bounds(clean)
    return set_level(clean[first:last])
