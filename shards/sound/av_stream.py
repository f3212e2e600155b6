"""Decoding by FFmpeg (PyAV): formats that libsndfile does not read, and files whose length is known at their end only.

Times of a container are kept: where audio begins late or has a hole, silence is inserted, so that a sample's position
is the time that a player shows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from shards.errors import AudioError

RAW_RATES = {".g722": 16_000, ".gsm": 8_000}  # raw streams without a header
BLOCK_S = 10.0
HOLE_S = 0.05  # smaller differences are rounding of times
LONGEST_HOLE_S = 3600.0  # a longer one is a jump of the clock, as in recorded broadcasts
_FROM_ZERO = {"mov", "mp4", "matroska", "webm", "avi"}  # containers whose clock begins at 0


class AvStream:
    """A file as FFmpeg decodes it, from its beginning: suits streams, and short files for spans."""

    frames: int | None = None
    subtype = ""

    def __init__(self, path: Path, source: Callable[[], Any] | None = None) -> None:
        """Read the format. `source` opens a part of the file; None takes all of it.

        Raises:
            AudioError: FFmpeg does not read it, or it has no audio.
        """
        import av

        self.path, self._source = path, source
        suffix = path.suffix.lower()
        self._form = suffix.lstrip(".") if suffix in RAW_RATES else None  # else the format is guessed
        try:
            with self._container() as container:
                if not container.streams.audio:
                    raise AudioError(f"{path}: has no audio")
                stream = container.streams.audio[0]
                self.rate: int = stream.rate or RAW_RATES.get(suffix, 0)
                self.channels: int = stream.channels
        except (av.FFmpegError, OSError, ValueError) as error:
            raise AudioError(f"{path}: {error}") from error

    def __enter__(self) -> AvStream:
        """Return the stream."""
        return self

    def __exit__(self, *error: object) -> None:
        """Nothing is open between two reads."""

    def read(self, first: int, count: int | None, dtype: str = "float32") -> np.ndarray:
        """Return (frames, channels) float32: `count` frames from `first` on, fewer at the end; None reads all.

        Raises:
            AudioError: damaged.
        """
        last = None if count is None else first + count
        found, at = [np.zeros((0, self.channels), np.float32)], 0
        for block in self.blocks():
            found.append(block[max(0, first - at) : None if last is None else max(0, last - at)])
            at += len(block)
            if last is not None and at >= last:
                break
        return np.concatenate(found)

    def blocks(self) -> Iterator[np.ndarray]:
        """Yield (n, channels) float32 of about ten seconds.

        Raises:
            AudioError: damaged, after the blocks before the damage.
        """
        size = round(BLOCK_S * self.rate)
        waiting: list[np.ndarray] = []
        count = 0
        try:
            for frame in self._frames():
                waiting.append(frame)
                count += len(frame)
                if count >= size:
                    yield np.concatenate(waiting)
                    waiting, count = [], 0
        except AudioError:
            if waiting:
                yield np.concatenate(waiting)
            raise
        if waiting:
            yield np.concatenate(waiting)

    def _container(self) -> Any:
        import av

        return av.open(str(self.path) if self._source is None else self._source(), format=self._form)

    def _frames(self) -> Iterator[np.ndarray]:
        """Yield (n, channels) of every decoded frame, and the silence before it."""
        import av

        read = 0
        try:
            with self._container() as container:
                stream = container.streams.audio[0]
                clock = _Clock(container, self.rate)
                resampler = av.AudioResampler(format="fltp", layout=stream.layout, rate=self.rate)
                for frame in container.decode(stream):
                    for silent in _stretches(clock.hole(frame, read), round(BLOCK_S * self.rate)):
                        read += silent
                        yield np.zeros((silent, self.channels), np.float32)
                    for part in resampler.resample(frame):
                        read += part.samples
                        yield part.to_ndarray().T
                for part in resampler.resample(None):
                    yield part.to_ndarray().T
        except (av.FFmpegError, OSError, ValueError) as error:
            raise AudioError(f"{self.path}: damaged at {read / max(1, self.rate):.1f} s: {error}") from error


def _stretches(total: int, size: int) -> Iterator[int]:
    while total > 0:
        yield min(total, size)
        total -= size


class _Clock:
    """Compares times of frames with the number of samples before them."""

    def __init__(self, container: Any, rate: int) -> None:
        names = set(container.format.name.split(","))
        begin = (container.start_time or 0) / 1e6  # of the first stream, video included
        self._rate = rate
        self._origin = 0.0 if names & _FROM_ZERO and abs(begin) <= LONGEST_HOLE_S else begin

    def hole(self, frame: Any, read: int) -> int:
        """Return the samples of silence between the `read` samples so far and a frame."""
        if frame.pts is None or frame.time_base is None:
            return 0
        missing = float(frame.pts * frame.time_base) - self._origin - read / self._rate
        if missing > LONGEST_HOLE_S:
            self._origin += missing
            return 0
        return round(missing * self._rate) if missing > HOLE_S else 0
