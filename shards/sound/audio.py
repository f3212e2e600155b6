"""Load audio files as 16 kHz mono float32, and encode them as 16-bit FLAC for shards.

Files are opened by :mod:`shards.sound.streams`. Resampling is soxr in high quality. Any fault of a file is an
:class:`AudioError`.
"""

from __future__ import annotations

import io
import logging
from collections.abc import Callable
from pathlib import Path

import numpy as np
import soundfile
import soxr

from shards.errors import AudioError
from shards.sample import SAMPLE_RATE
from shards.sound.flac import STREAMINFO_BYTES, holds_another, last_sample, stream_info, whole_samples, with_samples
from shards.sound.mixing import OUT_OF_PHASE, to_mono
from shards.sound.streams import open_stream
from shards.storage.sources import local_file

SLACK = 0.05  # seconds by which a recording may be shorter than the manifest says

logger = logging.getLogger(__name__)


def decode(data: bytes, length: int | None = None) -> np.ndarray:
    """Decode FLAC bytes of a sample: float32 (num_samples,) in [-1, 1].

    Args:
        length: of the FLAC at the beginning of `data`; None: all of it.

    Raises:
        AudioError: undecodable, truncated, empty, or not 16 kHz mono.
    """
    try:
        buffer = io.BytesIO(data)  # shares the bytes, even when it ends before them: they are not copied
        if length is not None:
            buffer.truncate(length)
        with soundfile.SoundFile(buffer) as file:
            rate, channels, announced = file.samplerate, file.channels, file.frames
            wave = file.read(dtype="float32", always_2d=False)
    except (soundfile.SoundFileError, TypeError, ValueError) as error:
        raise AudioError(f"{len(data) if length is None else length} bytes do not decode as FLAC: {error}") from error
    if (rate, channels) != (SAMPLE_RATE, 1):
        raise AudioError(f"audio is {rate} Hz with {channels} channels, a sample holds {SAMPLE_RATE} Hz mono")
    if len(wave) == 0 or len(wave) != announced:
        raise AudioError(f"audio has {len(wave)} samples, its header announces {announced}")
    return wave


def encode_flac(wave: np.ndarray) -> bytes:
    """Encode (num_samples,) float in [-1, 1] or int16 as 16 kHz mono 16-bit FLAC, clipped to ±1, without dither."""
    if wave.ndim != 1 or len(wave) == 0:
        raise AudioError(f"audio of shape {wave.shape}; expected (num_samples,) with at least one sample")
    pcm = wave if wave.dtype == np.int16 else _to_int16(wave)
    buffer = io.BytesIO()
    soundfile.write(buffer, pcm, SAMPLE_RATE, format="FLAC", subtype="PCM_16")
    return buffer.getvalue()


def _to_int16(wave: np.ndarray) -> np.ndarray:
    if not np.isfinite(wave).all():
        raise AudioError("audio has values that are not finite")
    return np.clip(np.rint(wave * 32768.0), -32768, 32767).astype(np.int16)


def load(
    path: str | Path,
    *,
    channel: int | None = None,
    start: float = 0.0,
    duration: float | None = None,
    note: Callable[[str], None] | None = None,
) -> np.ndarray:
    """Load a span of an audio file of any rate and format: float32 (num_samples,) at 16 kHz.

    Args:
        path: a path, or a URL of :mod:`shards.storage.sources`.
        channel: 0-based; None averages all channels, or takes the loudest if they cancel each other out.
        start: seconds into the file.
        duration: seconds; None reads to the end.
        note: called with what was not as asked for; None logs it as a warning.

    Raises:
        AudioError: missing, undecodable, empty, in an unsupported format, or ending before ``start + duration``.
        StorageError: the server of a URL failed.
    """
    with local_file(path) as local:
        return _load(local, channel, start, duration, note=note)


def _load(
    path: Path,
    channel: int | None,
    start: float,
    duration: float | None,
    *,
    keep_int16: bool = False,
    note: Callable[[str], None] | None = None,
) -> np.ndarray:
    """Load as :func:`load`; with `keep_int16`, int16 if the file holds that and no arithmetic is needed."""
    with open_stream(path) as stream:
        rate, first = stream.rate, round(start * stream.rate)
        if channel is not None and not 0 <= channel < stream.channels:
            raise AudioError(f"{path}: channel {channel} wanted, it has {stream.channels}")
        if stream.frames and first >= stream.frames:
            raise AudioError(f"{path}: ends at {stream.frames / rate:.3f} s, wanted from {start:.3f} s on")
        exact = (stream.subtype, rate) == ("PCM_16", SAMPLE_RATE) and (channel is not None or stream.channels == 1)
        count = None if duration is None else round(duration * rate)
        wave = stream.read(first, count, "int16" if keep_int16 and exact else "float32")
    if not len(wave):
        raise AudioError(f"{path}: no audio at {start:.3f} s")
    if duration is not None and len(wave) < (duration - SLACK) * rate:
        raise AudioError(
            f"{path}: ends at {start + len(wave) / rate:.3f} s, the manifest says {start + duration:.3f} s"
        )
    mono, taken = to_mono(wave, channel)
    if mono.dtype == np.int16:
        return mono
    if not np.isfinite(mono).all():
        raise AudioError(f"{path}: has values that are not finite")
    if taken is not None:
        (note or _warn)(f"{path}: {OUT_OF_PHASE}")
    return soxr.resample(mono, rate, SAMPLE_RATE, quality="HQ") if rate != SAMPLE_RATE else mono


def _warn(what: str) -> None:
    logger.warning("%s", what)


def load_flac(
    path: str | Path,
    *,
    channel: int | None = None,
    start: float = 0.0,
    duration: float | None = None,
    decode_copied: bool = False,
) -> tuple[bytes, int]:
    """Load as :func:`load`, and return FLAC bytes and their number of samples.

    A whole file that already is 16 kHz mono 16-bit FLAC is copied byte for byte, after the CRC of all its frames is
    checked; with `decode_copied` it is decoded as well. A length missing in its header is filled in. A file of
    `duration` to the sample counts as a whole file: seconds in a manifest are rounded.
    """
    with local_file(path) as local:
        if start == 0.0 and channel in (None, 0) and str(local).lower().endswith(".flac"):
            try:
                copied = _copy(local, duration, decode_copied)
            except AudioError as error:
                raise AudioError(f"{local}: {error}") from error
            if copied is not None:
                return copied
        wave = _load(local, channel, start, duration, keep_int16=True)
    return encode_flac(wave), len(wave)


def _copy(path: str | Path, duration: float | None, decode_it: bool) -> tuple[bytes, int] | None:
    """Return content and number of samples of a file in the target format; None if :func:`load` is needed."""
    try:
        with io.FileIO(path) as file:
            data = file.read(STREAMINFO_BYTES)
            info = stream_info(data)
            if info is None or (info.rate, info.channels, info.bits) != (SAMPLE_RATE, 1, 16):
                return None
            if info.samples and not _lasts(info.samples, duration):
                return None  # a part of a file that may be hours long
            data += file.readall()
    except OSError:
        return None
    samples = whole_samples(data, info)
    longer = not samples and (holds_another(data) or last_sample(data, info) > info.samples > 0)
    if longer or not (info.samples or _lasts(samples, duration)):
        return None
    if samples and not info.samples:
        data = with_samples(data, samples)
    if decode_it or not samples:
        return data, len(decode(data))  # or raise the decoder's error
    return data, samples


def _lasts(samples: int, duration: float | None) -> bool:
    """Return whether `samples` are the `duration` of a manifest."""
    return duration is None or abs(duration * SAMPLE_RATE - samples) < 1
