"""One channel out of several: a chosen one, or the mean of all."""

from __future__ import annotations

import numpy as np

# Power of the mean of n unrelated channels is 1/n of a channel's. Less than this share of that: they cancel out.
CANCELLED = 0.1
_STEP = 16  # a part of the frames is looked at first
OUT_OF_PHASE = "channels out of phase, whose mean would be silence: one channel is taken"


def to_mono(wave: np.ndarray, channel: int | None) -> tuple[np.ndarray, int | None]:
    """Return (n,) of (n, channels), and the channel that was taken in place of a mean that would be near silence.

    Args:
        channel: 0-based; None averages all channels. If they cancel each other out, as one signal on two wires of
            opposite polarity does, the loudest is taken.
    """
    if wave.shape[1] == 1 or channel is not None:
        return np.ascontiguousarray(wave[:, channel or 0]), None
    mean: np.ndarray = wave.mean(axis=1, dtype=np.float32)
    if not (_cancelled(wave[::_STEP], mean[::_STEP]) and _cancelled(wave, mean)):
        return mean, None
    loudest = int(np.einsum("ij,ij->j", wave, wave).argmax())
    return np.ascontiguousarray(wave[:, loudest]), loudest


def _cancelled(wave: np.ndarray, mean: np.ndarray) -> bool:
    return _power(mean[:, None]) < CANCELLED * _power(wave) / wave.shape[1]


def _power(wave: np.ndarray) -> float:
    """Return the mean power of the channels of (n, channels), without their constant offsets; makes no copy."""
    offsets = wave.mean(axis=0, dtype=np.float64)
    squares = np.einsum("ij,ij->j", wave, wave, dtype=np.float64) / max(1, len(wave))
    return max(0.0, float((squares - offsets**2).mean()))
