"""Seconds in which a GPU has nothing to do because its host is late, for finding stragglers.

On a GPU a step's collectives are only queued, and every host waits for its device at the end of the step, so by the
clock all hosts take as long as the slowest. But the device of a late host is idle again and again, while those of the
others are busy: they wait in a collective for it.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable
from typing import Any

EVERY_S = 0.02  # a sample of all streams takes some microseconds


class DeviceIdle:
    """A thread that samples whether all work that was queued on a GPU's streams is done."""

    def __init__(self, streams: Callable[[], Iterable[Any]], counts: Callable[[], bool]) -> None:
        """Start it.

        Args:
            streams: those that work is queued on; each has ``query``.
            counts: whether idle time counts now; not while the host waits for other ranks.
        """
        self.seconds = 0.0
        self._streams, self._counts = streams, counts
        self._stopped = threading.Event()
        threading.Thread(target=self._sample, name="device idle", daemon=True).start()

    def stop(self) -> None:
        """End the thread."""
        self._stopped.set()

    def _sample(self) -> None:
        before = time.perf_counter()
        while not self._stopped.wait(EVERY_S):
            now = time.perf_counter()
            if self._counts() and all(stream.query() for stream in self._streams()):
                self.seconds += now - before
            before = now
