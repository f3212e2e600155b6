"""Streaming reader: audio of any length, rate and channel count as 16 kHz mono blocks.

soundfile reads the formats of libsndfile (wav, flac, ogg, opus, mp3 …), PyAV others if it is installed (m4a, video).
Resampling is soxr with state from block to block, so a stream equals a file resampled in one piece.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import soundfile
import soxr

from shards.errors import AudioError
from shards.sample import SAMPLE_RATE
from shards.sound.audio import MAX_CHANNELS, RATES

BLOCK_S = 10.0


def seconds_of(path: Path) -> float | None:
    """Return the length in the file's header; None if it is unknown without decoding."""
    try:
        info = soundfile.info(str(path))
    except (soundfile.SoundFileError, OSError, TypeError, ValueError):
        return None
    return info.frames / info.samplerate if info.samplerate and 0 < info.frames < 2**62 else None


def blocks(path: Path, channel: int | None = None) -> Iterator[np.ndarray]:
    """Yield blocks (n,) float32 at 16 kHz of about ten seconds.

    Args:
        channel: 0-based; None averages all channels.

    Raises:
        AudioError: missing, undecodable, empty, truncated, or not finite; after the blocks before the error.
    """
    if not path.is_file():
        raise AudioError(f"{path}: no such file")
    opened = _open(path)
    if opened is None:
        yield from _resampled(path, *_av_frames(path), channel)
        return
    with opened as file:
        yield from _resampled(path, _sndfile_frames(path, file), file.samplerate, channel)


def _open(path: Path) -> soundfile.SoundFile | None:
    """Open a file; None if libsndfile cannot read it but PyAV can."""
    try:
        return soundfile.SoundFile(str(path))
    except soundfile.LibsndfileError as error:
        try:
            import av

            with av.open(str(path)) as container:
                if not container.streams.audio:
                    raise AudioError(f"{path}: has no audio")
        except ImportError:
            raise AudioError(
                f"{path}: {error.error_string}; with PyAV (pip install av) more formats are read"
            ) from error
        except (av.FFmpegError, OSError, ValueError):
            raise AudioError(f"{path}: not a readable audio file ({error.error_string})") from error
        return None
    except (OSError, ValueError, TypeError) as error:
        raise AudioError(f"{path}: {error}") from error


def _sndfile_frames(path: Path, file: soundfile.SoundFile) -> Iterator[np.ndarray]:
    """Yield (n, channels) float32. A file shorter than its header says is an error, after its last block."""
    _check(path, file.samplerate, file.channels)
    size = round(BLOCK_S * file.samplerate)
    read = 0
    try:
        while len(block := file.read(size, dtype="float32", always_2d=True)):
            read += len(block)
            yield block
    except (soundfile.SoundFileError, OSError) as error:
        raise AudioError(f"{path}: damaged at {read / file.samplerate:.1f} s: {error}") from error
    announced = file.frames
    if read < announced < 2**62 and file.format != "MP3":  # an mp3's header only estimates
        raise AudioError(
            f"{path}: ends at {read / file.samplerate:.1f} s, its header announces {announced / file.samplerate:.1f} s"
        )


def _av_frames(path: Path) -> tuple[Iterator[np.ndarray], int]:
    """Return frames as :func:`_sndfile_frames` does, and the rate."""
    import av

    with av.open(str(path)) as container:
        stream = container.streams.audio[0]
        rate, channels = stream.rate or 0, stream.channels
    _check(path, rate, channels)

    def frames() -> Iterator[np.ndarray]:
        read = 0
        try:
            with av.open(str(path)) as container:
                stream = container.streams.audio[0]
                resampler = av.AudioResampler(format="fltp", layout=stream.layout, rate=rate)
                for frame in container.decode(stream):
                    for part in resampler.resample(frame):
                        read += part.samples
                        yield part.to_ndarray().T
        except (av.FFmpegError, OSError, ValueError) as error:
            raise AudioError(f"{path}: damaged at {read / rate:.1f} s: {error}") from error

    return frames(), rate


def _resampled(path: Path, frames: Iterator[np.ndarray], rate: int, channel: int | None) -> Iterator[np.ndarray]:
    """Resample (n, channels) of any rate to (n,) at 16 kHz."""
    resampler = (
        soxr.ResampleStream(rate, SAMPLE_RATE, 1, dtype="float32", quality="HQ") if rate != SAMPLE_RATE else None
    )
    read = 0
    for block in frames:
        if channel is not None and not 0 <= channel < block.shape[1]:
            raise AudioError(f"{path}: no channel {channel}: it has {block.shape[1]}, counted from 0")
        mono = block.mean(axis=1, dtype=np.float32) if channel is None else np.ascontiguousarray(block[:, channel])
        if not np.isfinite(mono).all():
            raise AudioError(f"{path}: holds values that are not finite after {read / rate:.1f} s")
        read += len(mono)
        out = resampler.resample_chunk(mono) if resampler else mono
        if len(out):
            yield out
    if resampler and len(tail := resampler.resample_chunk(np.zeros(0, np.float32), last=True)):
        yield tail
    if read == 0:
        raise AudioError(f"{path}: holds no audio")


def _check(path: Path, rate: int, channels: int) -> None:
    if not RATES[0] <= rate <= RATES[1]:
        raise AudioError(f"{path}: sampling rate of {rate} Hz; expected {RATES[0]}–{RATES[1]}")
    if not 1 <= channels <= MAX_CHANNELS:
        raise AudioError(f"{path}: {channels} channels; expected 1–{MAX_CHANNELS}")
