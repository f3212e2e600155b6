"""Streaming reader: audio of any length, rate and channel count as 16 kHz mono blocks.

Files are opened by :mod:`shards.sound.streams`. Resampling is soxr with state from block to block, so a stream equals a
file resampled in one piece.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import soxr

from shards.errors import AudioError
from shards.sample import SAMPLE_RATE
from shards.sound.mixing import OUT_OF_PHASE, to_mono
from shards.sound.streams import MAX_CHANNELS, RATES, open_stream


def seconds_of(path: Path) -> float | None:
    """Return the length that the file's header gives; None if it is unknown without decoding."""
    try:
        with open_stream(path) as stream:
            return stream.frames / stream.rate if stream.frames else None
    except AudioError:
        return None


@dataclass(frozen=True)
class Sound:
    """Audio in memory, read as a file is."""

    wave: np.ndarray  # (n, channels) float
    rate: int
    label: str = "the given audio"  # in messages and transcripts

    @property
    def channels(self) -> int:
        """Number of channels."""
        return int(self.wave.shape[1])

    def blocks(self) -> Iterator[np.ndarray]:
        """Yield (n, channels) float32 of ten seconds."""
        step = 10 * self.rate
        for first in range(0, len(self.wave), step):
            yield np.asarray(self.wave[first : first + step], np.float32)

    def __str__(self) -> str:
        return self.label


def sound(samples: Any, rate: int | None, label: str = Sound.label) -> Sound:
    """Check samples: (n,) or (n, channels), float in [-1, 1] or int16.

    Raises:
        AudioError: the rate is missing or impossible, or the samples are of another shape or kind.
    """
    if rate is None:
        raise AudioError(f"{label}: the rate of samples is unknown: give sampling_rate")
    if isinstance(rate, bool) or int(rate) != rate or not RATES[0] <= rate <= RATES[1]:
        raise AudioError(f"{label}: a rate of {rate} Hz; {RATES[0]} to {RATES[1]} Hz can be read")
    wave = np.asarray(samples)
    if wave.dtype == np.int16:
        wave = wave.astype(np.float32) / 32768.0
    if wave.dtype.kind != "f":
        raise AudioError(f"{label}: samples of type {wave.dtype}; give float in [-1, 1], or int16")
    wave = wave[:, None] if wave.ndim == 1 else wave
    if wave.ndim != 2 or not 1 <= wave.shape[1] <= MAX_CHANNELS:
        raise AudioError(f"{label}: samples of shape {np.shape(samples)}; give (samples,) or (samples, channels)")
    return Sound(wave, int(rate), label)


def blocks(
    source: Path | Sound, channel: int | None = None, note: Callable[[str], None] | None = None
) -> Iterator[np.ndarray]:
    """Yield blocks (n,) float32 at 16 kHz of about ten seconds.

    Args:
        channel: 0-based; None averages all channels; one of them is taken where they cancel each other out.
        note: called once with a warning about the file.

    Raises:
        AudioError: missing, undecodable, empty, truncated, or not finite; after the blocks before the error.
    """
    with nullcontext(source) if isinstance(source, Sound) else open_stream(source) as stream:
        rate = stream.rate
        if channel is not None and not 0 <= channel < stream.channels:
            raise AudioError(f"{source}: no channel {channel}: it has {stream.channels}, counted from 0")
        resampler = (
            soxr.ResampleStream(rate, SAMPLE_RATE, 1, dtype="float32", quality="HQ") if rate != SAMPLE_RATE else None
        )
        read, noted = 0, False
        for block in stream.blocks():
            mono, taken = to_mono(block, channel)
            if not np.isfinite(mono).all():
                raise AudioError(f"{source}: holds values that are not finite after {read / rate:.1f} s")
            if taken is not None and note and not noted:
                note(f"{source}: {OUT_OF_PHASE}, from {read / rate:.1f} s on")
                noted = True
            read += len(mono)
            out = resampler.resample_chunk(mono) if resampler else mono
            if len(out):
                yield out
    if resampler and len(tail := resampler.resample_chunk(np.zeros(0, np.float32), last=True)):
        yield tail
    if read == 0:
        raise AudioError(f"{source}: holds no audio")
