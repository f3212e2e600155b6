"""Diarization with weights from Python packages: pyannote's segmentation 3.0, CAM++ vectors of pieces, clustering

Speech is where the network's probability of silence is low and the audio is louder than -65 dB; pauses of less than
0.3 s are speech of the turn around them. Speech is cut into pieces at pauses from 50 ms and where the network hears
another voice; a piece shorter than 0.4 s is joined to the shorter one beside it. Each piece gets a vector, of at least
0.6 s of audio, and pieces are joined as windows are in :mod:`pipeline.baselines.clustering`. Overlapped speech goes to
one voice.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np

from pipeline.baselines.clustering import groups
from pipeline.baselines.interfaces import DiarizedTurn
from pipeline.baselines.segmentation import FIRST, STEP, Segmentation, frame_time
from shards.errors import ConfigError
from shards.sample import SAMPLE_RATE
from shards.voices.extractors import Extractor

# All of them were chosen on training conversations, see docs/baselines.md.
THRESHOLD = 0.7  # cosine distance
SPEECH = 0.1  # probability of any voice
FLOOR_DB = -65.0  # of full scale, over 25 ms: digital silence and what a codec leaves in it
JOINED_S, CUT_S, SHORTEST_S, HEARD_S = 0.3, 0.05, 0.4, 0.6
_HALF = 200  # samples on each side of a frame's centre, for its loudness

Span = tuple[int, int]  # frames, the second excluded


class SegmentClustering:
    """Segmentation, speaker vectors of pieces, clustering."""

    def __init__(
        self, segmentation: Segmentation, extractor: Extractor, threshold: float = THRESHOLD, count: int | None = None
    ) -> None:
        """Take the parts.

        Args:
            threshold: cosine distance from which two groups of pieces are two people.
            count: number of people, if known; replaces the threshold.

        Raises:
            ConfigError: a threshold outside 0–2, or a count below 1.
        """
        if not 0 < threshold < 2 or (count is not None and count < 1):
            raise ConfigError(f"segmentation: threshold {threshold} outside 0–2, or a count of {count} people")
        self.id = f"segmentation ({extractor.id})"
        self._segmentation, self._extractor, self._threshold, self._count = segmentation, extractor, threshold, count

    def turns(self, wave: np.ndarray, session: str = "") -> list[DiarizedTurn]:
        """See :class:`~pipeline.baselines.interfaces.Diarizer`."""
        wave = wave.astype(np.float32)
        probabilities = self._segmentation.probabilities(wave)
        found = pieces(probabilities, loudness(wave, len(probabilities)))
        if not found:
            return []
        vectors = self._extractor.embed([_heard(wave, span) for span in found])
        return turns_of(found, groups(vectors, self._threshold, self._count), len(wave) / SAMPLE_RATE)


def loudness(wave: np.ndarray, frames: int) -> np.ndarray:
    """Return (frames,) decibels of full scale around each frame's centre."""
    power = np.concatenate([[0.0], np.cumsum(wave.astype(np.float64) ** 2)])
    centres = np.arange(frames) * STEP + FIRST
    start, end = np.maximum(centres - _HALF, 0), np.minimum(centres + _HALF, len(wave))
    return np.asarray(10 * np.log10((power[end] - power[start]).clip(0) / (2 * _HALF) + 1e-12))


def pieces(probabilities: np.ndarray, decibels: np.ndarray) -> list[Span]:
    """(frames, 7) and (frames,) → pieces of speech of one voice each, in order."""
    if not len(probabilities):
        return []
    speech = (1 - probabilities[:, 0] > SPEECH) & (decibels > FLOOR_DB)
    voices = probabilities[:, 1:].argmax(1)
    pauses = _spans(~_filled(speech, CUT_S))
    found: list[Span] = []
    for start, end in _spans(_filled(speech, JOINED_S)):
        cuts = {(a + b) // 2 for a, b in pauses if start < a and b < end}
        cuts |= {start + 1 + int(i) for i in np.flatnonzero(np.diff(voices[start:end]))}
        edges = [start, *sorted(cuts), end]
        found += _joined(list(itertools.pairwise(edges)), round(SHORTEST_S * SAMPLE_RATE / STEP))
    return found


def _joined(spans: list[Span], shortest: int) -> list[Span]:
    """Join the shortest of neighbouring spans to the shorter one beside it until none is too short."""
    while len(spans) > 1:
        at = min(range(len(spans)), key=lambda i: spans[i][1] - spans[i][0])
        if spans[at][1] - spans[at][0] >= shortest:
            break
        beside = [i for i in (at - 1, at + 1) if 0 <= i < len(spans)]
        other = min(beside, key=lambda i: spans[i][1] - spans[i][0])
        first, last = min(at, other), max(at, other)
        spans[first : last + 1] = [(spans[first][0], spans[last][1])]
    return spans


def _spans(active: np.ndarray) -> list[Span]:
    """Return the stretches of a boolean array that are true."""
    edges = np.flatnonzero(np.diff(np.concatenate([[0], active.astype(int), [0]])))
    return [(int(a), int(b)) for a, b in zip(edges[::2], edges[1::2], strict=True)]


def _filled(active: np.ndarray, seconds: float) -> np.ndarray:
    """Fill gaps that are shorter, between stretches."""
    found = active.copy()
    spans = _spans(active)
    for (_, end), (start, _) in itertools.pairwise(spans):
        if (start - end) * STEP < seconds * SAMPLE_RATE:
            found[end:start] = True
    return found


def _heard(wave: np.ndarray, span: Span) -> np.ndarray:
    """Return the audio of a piece, with some around it if it is short."""
    start, end = (round(frame_time(frame) * SAMPLE_RATE) for frame in span)
    more = max(0, round(HEARD_S * SAMPLE_RATE) - (end - start)) // 2
    part = wave[max(0, start - more) : end + more]
    return np.pad(part, (0, max(0, SAMPLE_RATE // 4 - len(part))))


def turns_of(spans: Sequence[Span], labels: np.ndarray, seconds: float) -> list[DiarizedTurn]:
    """Pieces and their groups → turns; adjacent pieces of one group are one turn."""
    found: list[DiarizedTurn] = []
    edge = STEP / SAMPLE_RATE / 2
    for (a, b), label in zip(spans, labels, strict=True):
        start, end = max(0.0, frame_time(a) - edge), min(seconds, frame_time(b) - edge)
        if found and found[-1].speaker == str(label) and start - found[-1].end < edge:
            found[-1] = DiarizedTurn(found[-1].speaker, found[-1].start, end)
        else:
            found.append(DiarizedTurn(str(label), start, end))
    return found
