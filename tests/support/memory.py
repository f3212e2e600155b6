"""What a piece of code takes of this process's memory at its peak."""

from __future__ import annotations

import ctypes
import threading
import time
from pathlib import Path

M_MMAP_THRESHOLD = -3


class Watch:
    """Peak growth in bytes while it runs: of all resident memory, or (``RssAnon``) of that which no file backs."""

    def __init__(self, field: str = "VmRSS") -> None:
        self._field = field

    def __enter__(self) -> Watch:
        ctypes.CDLL(None).mallopt(M_MMAP_THRESHOLD, 1 << 16)  # freed tensors leave the process at once
        self.start = self.peak = self._now()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    @property
    def grown(self) -> int:
        """Peak less what was there before."""
        return self.peak - self.start

    def _run(self) -> None:
        while not self._stop.is_set():
            self.peak = max(self.peak, self._now())
            time.sleep(0.002)

    def _now(self) -> int:
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(self._field))
