"""Streaming voice activity detection: a speech probability for each 32 ms, and stretches of speech.

``silero`` is the Silero VAD network, its weights from the package on PyPI (11 MB, MIT); 1 % of real time on a core.
``energy`` needs no weights: louder than the quietest tenth of the last half minute, each window without its offset.

Noise of -60 dB is added to Silero's input: it was trained on room recordings, and misses short words after digital
silence. It processes only the first half second of longer digital silence, which therefore costs nothing.
"""

from __future__ import annotations

import warnings
from collections import deque
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from shards.sample import SAMPLE_RATE

WINDOW = 512  # samples
WINDOW_S = WINDOW / SAMPLE_RATE
SILENT = 1e-4  # -80 dB: peak of a window of digital silence
NOISE = 1e-3  # -60 dB
HEARD = 15  # windows of a digital silence that the network processes
START, STOP = 0.5, 0.35  # probability at which speech begins, and under which it ends
MIN_SPEECH_S, MIN_SILENCE_S, PAD_S = 0.25, 0.1, 0.03


class Vad(Protocol):
    """Interface of a detector."""

    def probabilities(self, wave: np.ndarray) -> np.ndarray:
        """Return (n,) speech probabilities of the next (n · 512,) samples."""
        ...

    def reset(self) -> None:
        """Forget what was heard: the next samples are the first of a recording."""
        ...


class Silero:
    """The network, with its state."""

    def __init__(self, weights: Path) -> None:
        """Read the weights."""
        import torch

        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # of torch.jit, the form in which the weights come
            self.network: Any = torch.jit.load(str(weights), map_location="cpu").eval()
        self.reset()

    def reset(self) -> None:
        """See :class:`Vad`."""
        self.network.reset_states()
        self._noise = np.random.default_rng(0)  # drawn window by window: independent of blocks
        self._silent = 0  # windows of digital silence up to here

    def probabilities(self, wave: np.ndarray) -> np.ndarray:
        """See :class:`Vad`."""
        import torch

        frames = wave.reshape(-1, WINDOW)
        found = np.zeros(len(frames), np.float32)
        loud = np.abs(frames).max(axis=1, initial=0.0) >= SILENT
        with torch.inference_mode():
            for i, window in enumerate(frames):
                self._silent = 0 if loud[i] else self._silent + 1
                if self._silent <= HEARD:  # beyond it the network's state is kept
                    noisy = window + NOISE * self._noise.standard_normal(WINDOW, np.float32)
                    found[i] = float(self.network(torch.from_numpy(noisy.astype(np.float32))[None], SAMPLE_RATE))
        return found


class Energy:
    """Loudness over the quietest tenth of the last half minute."""

    OVER_DB, LEAST_DB, MEMORY_S = 12.0, -55.0, 30.0

    def __init__(self) -> None:
        """Begin with a quiet room."""
        self.reset()

    def reset(self) -> None:
        """See :class:`Vad`."""
        self._recent: deque[float] = deque(maxlen=round(self.MEMORY_S / WINDOW_S))

    def probabilities(self, wave: np.ndarray) -> np.ndarray:
        """See :class:`Vad`: 1 or 0."""
        power = wave.reshape(-1, WINDOW).var(axis=1, dtype=np.float64)  # a constant offset is no sound
        levels = 10 * np.log10(power + 1e-12)
        self._recent.extend(levels)
        floor = max(float(np.quantile(np.array(self._recent), 0.1)), -90.0) if self._recent else -90.0
        smooth = np.convolve(levels, np.ones(3) / 3, mode="same") if len(levels) >= 3 else levels
        return ((smooth > self.LEAST_DB) & (smooth > floor + self.OVER_DB)).astype(np.float32)


def speech(probabilities: Sequence[float] | np.ndarray) -> list[tuple[float, float]]:
    """Return stretches (start, end) of speech in seconds from the first window, by Silero's rule.

    Speech begins at a probability of 0.5 and ends when it stays under 0.35 for 0.1 s. Less than 0.25 s is dropped.
    """
    found: list[tuple[float, float]] = []
    start: float | None = None
    quiet: float | None = None
    for i, p in enumerate(probabilities):
        now = i * WINDOW_S
        if p >= START:
            start, quiet = (now if start is None else start), None
        elif start is not None and p < STOP:
            quiet = now if quiet is None else quiet
            if now + WINDOW_S - quiet >= MIN_SILENCE_S:
                found.append((start, quiet))
                start = quiet = None
    total = len(probabilities) * WINDOW_S
    if start is not None:
        found.append((start, total if quiet is None else quiet))
    return [(max(0.0, a - PAD_S), min(total, b + PAD_S)) for a, b in found if b - a >= MIN_SPEECH_S]
