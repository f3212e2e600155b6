"""Conditioning of recordings of different origin: hum and offset removed, trimmed to the speech, level-normalized."""

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
    """High-pass (n,) to (n,) float32: zero below `low` Hz, raised-cosine slope up to `high` Hz, zero phase.

    The ends are continued by reflection, to a length that is transformed fast: one with a large prime factor takes
    several times as long.
    """
    pad = min(len(wave) - 1, SAMPLE_RATE // 10)
    behind = pad + -(len(wave) + 2 * pad) % (SAMPLE_RATE // 10)
    padded = np.pad(wave, (pad, behind), mode="reflect", reflect_type="odd") if pad > 0 else wave
    spectrum = np.fft.rfft(padded)
    frequency = np.fft.rfftfreq(len(padded), 1 / SAMPLE_RATE)
    spectrum *= 0.5 - 0.5 * np.cos(np.pi * np.clip((frequency - low) / (high - low), 0, 1))
    return np.fft.irfft(spectrum, len(padded))[pad : pad + len(wave)].astype(np.float32)


def frame_levels(wave: np.ndarray) -> np.ndarray:
    """Return the RMS in dB of full scale per 10 ms frame; the remainder at the end is one frame."""
    padded = np.pad(wave, (0, -len(wave) % FRAME)).reshape(-1, FRAME)
    counts = np.full(len(padded), FRAME)
    counts[-1] = len(wave) - FRAME * (len(padded) - 1)
    return np.asarray(10 * np.log10((padded.astype(np.float64) ** 2).sum(1) / counts + 1e-12))


def speech_bounds(wave: np.ndarray) -> tuple[int, int]:
    """Return the first and last + 1 sample of the speech in a recording of one utterance.

    A frame is speech if it is less than 35 dB below the loudest frame and more than 10 dB above the noise floor (5th
    percentile). The threshold is at most 25 dB below the loudest frame, since a tightly cut recording has no silence
    to measure. A sound more than 50 ms from the rest is a click if it lasts at most 50 ms at the start or 30 ms at
    the end (a final plosive lasts longer). 20 ms are kept on each side.

    Raises:
        AudioError: the recording is silent.
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
    """High-pass, trim to the speech and set the level."""
    clean = high_pass(wave)
    first, last = speech_bounds(clean)
    return set_level(clean[first:last])
