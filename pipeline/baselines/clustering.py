"""Diarization with weights from Python packages: Silero VAD, CAM++ vectors of short windows, agglomerative clustering

Speech is cut into windows of 1.5 s every 0.75 s (:mod:`pipeline.transcribe.enrolment`), windows are joined by scipy's
average linkage over cosine distance until groups are further apart than a threshold, and where two neighbouring windows
are of two groups the turn ends halfway between their centres. Overlapped speech goes to one voice.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from pipeline.baselines.interfaces import DiarizedTurn
from pipeline.transcribe.enrolment import windows
from pipeline.transcribe.vad import WINDOW, Vad, speech
from shards.errors import ConfigError
from shards.sample import SAMPLE_RATE
from shards.voices.extractors import Extractor

THRESHOLD = 0.65  # cosine distance; chosen on training conversations, see docs/baselines.md


class Clustering:
    """VAD + speaker vectors + clustering."""

    def __init__(
        self,
        extractor: Extractor,
        vad: Callable[[], Vad],
        threshold: float = THRESHOLD,
        count: int | None = None,
    ) -> None:
        """Take the parts.

        Args:
            vad: makes a detector in its initial state.
            threshold: cosine distance from which two groups of windows are two people.
            count: number of people, if known; replaces the threshold.

        Raises:
            ConfigError: a threshold outside 0–2, or a count below 1.
        """
        if not 0 < threshold < 2 or (count is not None and count < 1):
            raise ConfigError(f"clustering: threshold {threshold} outside 0–2, or a count of {count} people")
        self.id = f"clustering ({extractor.id})"
        self._extractor, self._vad, self._threshold, self._count = extractor, vad, threshold, count

    def turns(self, wave: np.ndarray, session: str = "") -> list[DiarizedTurn]:
        """See :class:`~pipeline.baselines.interfaces.Diarizer`."""
        padded = np.pad(wave.astype(np.float32), (0, -len(wave) % WINDOW))
        seconds = len(wave) / SAMPLE_RATE
        found = speech(self._vad().probabilities(padded))
        spans = [(a, min(b, seconds)) for a, b in found if a < seconds]
        places, vectors = windows(wave, spans, self._extractor)
        return turns_of(spans, places, groups(vectors, self._threshold, self._count))


def groups(vectors: np.ndarray, threshold: float, count: int | None = None) -> np.ndarray:
    """(n, dim) unit vectors → (n,) group of each."""
    if len(vectors) < 2:
        return np.zeros(len(vectors), int)
    from scipy.cluster.hierarchy import fcluster, linkage

    tree = linkage(vectors.astype(np.float64), "average", metric="cosine")
    if count is not None:
        return np.asarray(fcluster(tree, count, "maxclust"))
    return np.asarray(fcluster(tree, threshold, "distance"))


def turns_of(spans: Sequence[tuple[float, float]], places: np.ndarray, labels: np.ndarray) -> list[DiarizedTurn]:
    """Stretches of speech and their labelled windows → turns; a stretch too short for a window is dropped."""
    found: list[DiarizedTurn] = []
    for start, end in spans:
        inside = [i for i, (a, b) in enumerate(places) if a >= start - 1e-6 and b <= end + 1e-6]
        begin = start
        for n, this in enumerate(inside):
            following = inside[n + 1] if n + 1 < len(inside) else None
            if following is not None and labels[this] == labels[following]:
                continue
            stop = end if following is None else float(places[[this, following]].mean())
            found.append(DiarizedTurn(str(labels[this]), begin, stop))
            begin = stop
    return found
