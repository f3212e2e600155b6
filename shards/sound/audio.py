"""Load audio files as 16 kHz mono float32, and encode them as 16-bit FLAC for shards.

Files are read by soundfile (wav, flac, ogg, opus, mp3 …) or, if installed, PyAV for formats that libsndfile does not
support (g722, gsm, m4a). Resampling is soxr in high quality. Any fault of a file is an :class:`AudioError`.
"""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import soundfile
import soxr

from shards.errors import AudioError
from shards.sample import SAMPLE_RATE
from shards.sound.flac import STREAMINFO_BYTES, stream_info, whole_samples, with_samples

MAX_CHANNELS = 64  # more channels mean a damaged header
RATES = (4_000, 384_000)
SLACK = 0.05  # seconds by which a recording may be shorter than the manifest says
MAX_FRAMES = 1 << 40  # libsndfile reports far more if the header lacks the length
_PYAV_RATES = {".g722": 16_000, ".gsm": 8_000}  # raw streams without a header


def decode(data: bytes) -> np.ndarray:
    """Decode FLAC bytes of a sample: float32 (num_samples,) in [-1, 1].

    Raises:
        AudioError: undecodable, truncated, empty, or not 16 kHz mono.
    """
    try:
        with soundfile.SoundFile(io.BytesIO(data)) as file:
            rate, channels, announced = file.samplerate, file.channels, file.frames
            wave = file.read(dtype="float32", always_2d=False)
    except (soundfile.SoundFileError, TypeError, ValueError) as error:
        raise AudioError(f"{len(data)} bytes do not decode as FLAC: {error}") from error
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
    path: str | Path, *, channel: int | None = None, start: float = 0.0, duration: float | None = None
) -> np.ndarray:
    """Load a span of an audio file of any rate and format: float32 (num_samples,) at 16 kHz.

    Args:
        channel: 0-based; None averages all channels.
        start: seconds into the file.
        duration: seconds; None reads to the end.

    Raises:
        AudioError: missing, undecodable, empty, in an unsupported format, or ending before ``start + duration``.
    """
    return _load(Path(path), channel, start, duration)


def _load(
    path: Path, channel: int | None, start: float, duration: float | None, *, keep_int16: bool = False
) -> np.ndarray:
    """Load as :func:`load`; with `keep_int16`, int16 if the file holds that and no arithmetic is needed."""
    if path.suffix.lower() in _PYAV_RATES:
        wave, rate = _read_av(path, start, duration)
    else:
        wave, rate = _read_soundfile(path, start, duration, one=channel is not None, keep_int16=keep_int16)
    if not len(wave):
        raise AudioError(f"{path}: no audio at {start:.3f} s")
    if duration is not None and len(wave) < (duration - SLACK) * rate:
        raise AudioError(
            f"{path}: ends at {start + len(wave) / rate:.3f} s, the manifest says {start + duration:.3f} s"
        )
    mono = _select_channel(path, wave, channel)
    if mono.dtype == np.int16:
        return mono
    if not np.isfinite(mono).all():
        raise AudioError(f"{path}: has values that are not finite")
    return soxr.resample(mono, rate, SAMPLE_RATE, quality="HQ") if rate != SAMPLE_RATE else mono


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
    if start == 0.0 and channel in (None, 0) and str(path).lower().endswith(".flac"):
        try:
            copied = _copy(path, duration, decode_copied)
        except AudioError as error:
            raise AudioError(f"{path}: {error}") from error
        if copied is not None:
            return copied
    wave = _load(Path(path), channel, start, duration, keep_int16=True)
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
    if not info.samples and not _lasts(samples, duration):
        return None
    if samples and not info.samples:
        data = with_samples(data, samples)
    if decode_it or not samples:
        return data, len(decode(data))  # or raise the decoder's error
    return data, samples


def _lasts(samples: int, duration: float | None) -> bool:
    """Return whether `samples` are the `duration` of a manifest."""
    return duration is None or abs(duration * SAMPLE_RATE - samples) < 1


def _read_soundfile(
    path: Path, start: float, duration: float | None, *, one: bool = False, keep_int16: bool = False
) -> tuple[np.ndarray, int]:
    """Read (frames, channels) float32 and the rate; with `keep_int16` int16 if the file holds it for `one` channel."""
    if not path.is_file():
        raise AudioError(f"{path}: no such file")
    try:
        with open_sound(path) as file:
            rate = file.samplerate
            _check_format(path, rate, file.channels)
            if file.frames > MAX_FRAMES:
                open_end = AudioError("its header has no length; write it to a file, not into a pipe")
                return _read_unknown(path, start, duration, open_end)
            first = round(start * rate)
            if first >= file.frames:
                raise AudioError(f"{path}: ends at {file.frames / rate:.3f} s, wanted from {start:.3f} s on")
            file.seek(first)
            wanted = file.frames - first if duration is None else min(round(duration * rate), file.frames - first)
            same = (file.subtype, rate) == ("PCM_16", SAMPLE_RATE) and (one or file.channels == 1)
            dtype = "int16" if keep_int16 and same else "float32"
            wave = file.read(wanted, dtype=dtype, always_2d=True)
    except soundfile.LibsndfileError as error:
        return _read_unknown(path, start, duration, error)
    except (soundfile.SoundFileError, OSError, ValueError, TypeError) as error:
        raise AudioError(f"{path}: {error}") from error
    if len(wave) < wanted:
        raise AudioError(f"{path}: truncated, {len(wave)} of {wanted} frames could be read")
    return wave, rate


def open_sound(path: Path) -> soundfile.SoundFile:
    """Open a file by libsndfile. FLAC without a length in its header, which it cannot read, gets that of its frames.

    Raises:
        AudioError: its frames are damaged too. (Other errors are soundfile's.)
    """
    file = soundfile.SoundFile(path)
    if file.frames <= MAX_FRAMES or file.format != "FLAC":
        return file
    file.close()
    data = path.read_bytes()
    info = stream_info(data)
    samples = whole_samples(data, info) if info else 0
    if not samples:
        raise AudioError(f"{path}: truncated or damaged, and its header has no length; write it again")
    return soundfile.SoundFile(io.BytesIO(with_samples(data, samples)))


def _read_unknown(path: Path, start: float, duration: float | None, error: Exception) -> tuple[np.ndarray, int]:
    """Read by PyAV what libsndfile cannot open; report libsndfile's error if that fails too."""
    try:
        return _read_av(path, start, duration)
    except AudioError:
        raise AudioError(f"{path}: {error}") from error


def _read_av(path: Path, start: float, duration: float | None) -> tuple[np.ndarray, int]:
    """Read (frames, channels) float32 and the rate. Decodes from the beginning: suits short files."""
    try:
        import av
    except ImportError as error:
        raise AudioError(f"{path}: needs PyAV to be decoded; pip install av") from error
    chunks: list[np.ndarray] = []
    try:
        suffix = path.suffix.lower()
        raw = suffix.lstrip(".") if suffix in _PYAV_RATES else None  # else the format is guessed
        with av.open(str(path), format=raw) as container:
            stream = container.streams.audio[0]
            rate = stream.rate or _PYAV_RATES.get(path.suffix.lower(), 0)
            _check_format(path, rate, stream.channels)
            resampler = av.AudioResampler(format="fltp", layout=stream.layout, rate=rate)
            for frame in [*container.decode(stream), None]:
                chunks += [f.to_ndarray().T for f in resampler.resample(frame)]
    except (av.FFmpegError, OSError, IndexError, ValueError) as error:
        raise AudioError(f"{path}: {error}") from error
    if not chunks:
        raise AudioError(f"{path}: contains no audio")
    first = round(start * rate)
    last = None if duration is None else first + round(duration * rate)
    return np.concatenate(chunks)[first:last], rate


def _check_format(path: Path, rate: int, channels: int) -> None:
    if not RATES[0] <= rate <= RATES[1]:
        raise AudioError(f"{path}: sampling rate of {rate} Hz; expected {RATES[0]}–{RATES[1]}")
    if not 1 <= channels <= MAX_CHANNELS:
        raise AudioError(f"{path}: {channels} channels; expected 1–{MAX_CHANNELS}")


def _select_channel(path: Path, wave: np.ndarray, channel: int | None) -> np.ndarray:
    if channel is None:
        return wave[:, 0] if wave.shape[1] == 1 else wave.mean(axis=1, dtype=np.float32)
    if not 0 <= channel < wave.shape[1]:
        raise AudioError(f"{path}: channel {channel} wanted, it has {wave.shape[1]}")
    return np.ascontiguousarray(wave[:, channel])
