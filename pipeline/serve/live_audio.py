"""Audio of a live session: bytes come from the event loop, blocks go to the session's thread."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import numpy as np

from shards.sample import SAMPLE_RATE

BYTES = 2  # of a sample: signed 16 bits, little-endian


class LiveAudio:
    """Queue of 16 kHz mono PCM."""

    def __init__(self) -> None:
        """Begin without audio."""
        self._changed = threading.Condition()
        self._data = bytearray()
        self._ended = False
        self._error: Exception | None = None
        self.seconds = 0.0  # received

    @property
    def waiting_seconds(self) -> float:
        """Audio that the thread has not taken yet."""
        return len(self._data) / BYTES / SAMPLE_RATE

    def put(self, data: bytes) -> None:
        """Add bytes; a sample may be split between two calls."""
        with self._changed:
            self._data += data
            self.seconds += len(data) / BYTES / SAMPLE_RATE
            self._changed.notify()

    def end(self, error: Exception | None = None) -> None:
        """End the audio, with an error that the thread raises after what came before it."""
        with self._changed:
            self._ended, self._error = True, self._error or error
            self._changed.notify()

    def blocks(self, seconds: float) -> Iterator[np.ndarray]:
        """Yield blocks (n,) float32 of this length, then the rest; blocks until there is audio."""
        size = round(seconds * SAMPLE_RATE) * BYTES
        while True:
            with self._changed:
                self._changed.wait_for(lambda: len(self._data) >= size or self._ended)
                last = len(self._data) < size
                block = bytes(self._data[:size])
                del self._data[:size]
            block = block[: len(block) // BYTES * BYTES]
            if block:
                yield np.frombuffer(block, "<i2").astype(np.float32) / 32768
            if last:
                break
        if self._error is not None:
            raise self._error
