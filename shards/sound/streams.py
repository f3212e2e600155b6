"""Audio files as streams: which library decodes a file, how long it is, any span of it.

libsndfile decodes what it can open (wav, flac, ogg, opus, mp3 …), FFmpeg the rest (m4a, video, g722 …) and an MP3 whose
length would be an estimate. A length that is known is exact; any other is counted at the end.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Protocol, Self

import numpy as np
import soundfile

from shards.errors import AudioError
from shards.sound.av_stream import BLOCK_S, RAW_RATES, AvStream
from shards.sound.flac import stream_info, whole_samples, with_samples
from shards.sound.joined import pieces
from shards.sound.mp3 import RUN_IN, tells_its_length

MAX_CHANNELS = 64  # more channels mean a damaged header
RATES = (4_000, 384_000)
MAX_FRAMES = 1 << 40  # libsndfile reports far more if the header lacks the length
_WITHOUT_SEEKING = "DWVW"  # libsndfile says that it can seek in these codecs


class Stream(Protocol):
    """A context manager of an open file."""

    rate: int
    channels: int
    frames: int | None  # None: known at the end only
    subtype: str  # libsndfile's name of the codec; "": another library's

    def read(self, first: int, count: int | None, dtype: str = "float32") -> np.ndarray:
        """Return (frames, channels): `count` frames from `first` on, fewer at the end; None reads all.

        Raises:
            AudioError: damaged.
        """
        ...

    def blocks(self) -> Iterator[np.ndarray]:
        """Yield (n, channels) float32 of about ten seconds.

        Raises:
            AudioError: damaged or truncated, after the blocks before the damage.
        """
        ...

    def __enter__(self) -> Self:
        """Return the stream."""
        ...

    def __exit__(self, *error: object) -> None:
        """Close the file."""
        ...


def open_stream(path: Path) -> Stream:
    """Open an audio file.

    Raises:
        AudioError: missing, not audio, of an unsupported rate or number of channels, or with audio behind the end that
            its header announces.
    """
    try:
        if not path.is_file():
            raise AudioError(f"{path}: no such file")
        if not path.stat().st_size:
            raise AudioError(f"{path}: not a readable audio file (it is empty, 0 bytes)")
        parts = pieces(path) if path.suffix.lower() not in RAW_RATES else []
        stream: Stream = _Joined(path, [_open(path, part) for part in parts]) if parts else _open(path, None)
    except OSError as error:
        raise AudioError(f"{path}: {error}") from error
    if not RATES[0] <= stream.rate <= RATES[1]:
        raise AudioError(f"{path}: sampling rate of {stream.rate} Hz; expected {RATES[0]}–{RATES[1]}")
    if not 1 <= stream.channels <= MAX_CHANNELS:
        raise AudioError(f"{path}: {stream.channels} channels; expected 1–{MAX_CHANNELS}")
    return stream


def _open(path: Path, part: Callable[[], Any] | None) -> Stream:
    """Open a file, or a part of it."""
    if path.suffix.lower() in RAW_RATES:
        return AvStream(path)
    try:
        file: soundfile.SoundFile = _SoundFile(path if part is None else part())
    except soundfile.LibsndfileError as error:
        try:
            return AvStream(path, part)
        except AudioError:
            raise AudioError(f"{path}: not a readable audio file ({error.error_string})") from error
    except (soundfile.SoundFileError, ValueError, TypeError) as error:
        raise AudioError(f"{path}: {error}") from error
    if file.format == "MP3" and not (part is None and tells_its_length(path)):
        file.close()
        return AvStream(path, part)
    if file.frames > MAX_FRAMES:
        without_length, file = file, _flac_with_length(path, file) if file.format == "FLAC" else file
        without_length.close()
        if file is without_length:
            return AvStream(path, part)
    return _Sndfile(path, file)


def _flac_with_length(path: Path, file: soundfile.SoundFile) -> soundfile.SoundFile:
    """Open FLAC without a length in its header, which libsndfile cannot read, with that of its frames."""
    data = path.read_bytes()
    info = stream_info(data)
    samples = whole_samples(data, info) if info else 0
    if not samples:
        raise AudioError(f"{path}: truncated or damaged, and its header has no length; write it again")
    return soundfile.SoundFile(io.BytesIO(with_samples(data, samples)))


class _SoundFile(soundfile.SoundFile):
    """Know which codecs cannot seek; soundfile seeks after each read otherwise."""

    def seekable(self) -> bool:
        return bool(super().seekable()) and not self.subtype.startswith(_WITHOUT_SEEKING)


class _Sndfile:
    """A file that libsndfile decodes."""

    def __init__(self, path: Path, file: soundfile.SoundFile) -> None:
        self.path, self._file = path, file
        self.rate, self.channels, self.frames, self.subtype = file.samplerate, file.channels, file.frames, file.subtype
        self._at = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._file.close()

    def read(self, first: int, count: int | None, dtype: str = "float32") -> np.ndarray:
        left = max(0, self.frames - first)
        wanted = left if count is None else min(count, left)
        try:
            wave = self._read_from(first, wanted, dtype)
        except (soundfile.SoundFileError, OSError, ValueError, TypeError) as error:
            raise AudioError(f"{self.path}: {error}") from error
        if len(wave) < wanted:
            raise AudioError(f"{self.path}: truncated, {len(wave)} of {wanted} frames could be read")
        return wave

    def _read_from(self, first: int, count: int, dtype: str) -> np.ndarray:
        """Read up to `count` frames."""
        if first == self._at and not (first and self._file.format == "MP3"):
            run_in = 0  # some codecs cannot even seek to where they are
        elif self._file.seekable():
            run_in = min(first, RUN_IN) if self._file.format == "MP3" else 0
            self._file.seek(first - run_in)
        else:
            run_in = first - self._at
        # In one call: soundfile seeks after each, and an MP3 decoder then lacks the bits of earlier frames.
        wave: np.ndarray = self._file.read(run_in + count, dtype=dtype, always_2d=True)[run_in:]
        self._at = first + len(wave)
        return wave

    def blocks(self) -> Iterator[np.ndarray]:
        size, read = round(BLOCK_S * self.rate), 0
        try:
            while read < self.frames:
                block = self._read_from(read, min(size, self.frames - read), "float32")
                if not len(block):
                    break
                read += len(block)
                yield block
        except (soundfile.SoundFileError, OSError) as error:
            raise AudioError(f"{self.path}: damaged at {read / self.rate:.1f} s: {error}") from error
        if read < self.frames:
            raise AudioError(
                f"{self.path}: ends at {read / self.rate:.1f} s, its header announces {self.frames / self.rate:.1f} s"
            )


class _Joined:
    """Several streams, one after the other."""

    subtype = ""

    def __init__(self, path: Path, parts: Sequence[Stream]) -> None:
        self._parts = parts
        self.rate, self.channels = parts[0].rate, parts[0].channels
        if any((p.rate, p.channels) != (self.rate, self.channels) for p in parts):
            forms = ", ".join(f"{p.rate} Hz with {p.channels} channels" for p in parts)
            raise AudioError(f"{path}: joined of files of different forms ({forms}); split it")
        lengths = [p.frames for p in parts]
        self.frames = None if None in lengths else sum(n or 0 for n in lengths)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        with ExitStack() as stack:
            for part in self._parts:
                stack.push(part)

    def read(self, first: int, count: int | None, dtype: str = "float32") -> np.ndarray:
        last = None if count is None else first + count
        found, at = [np.zeros((0, self.channels), dtype)], 0
        for part in self._parts:
            length = part.frames
            if length is None:
                wave = part.read(0, None, dtype)
                found.append(wave[max(0, first - at) : None if last is None else max(0, last - at)])
                length = len(wave)
            elif first < at + length and (last is None or last > at):
                begin = max(0, first - at)
                found.append(part.read(begin, None if last is None else last - at - begin, dtype))
            at += length
        return np.concatenate(found)

    def blocks(self) -> Iterator[np.ndarray]:
        for part in self._parts:
            yield from part.blocks()
