"""Cut a stream of audio into chunks of 40–50 s that begin and end in silence.

A chunk begins shortly before speech. It ends in the middle of the longest silence at 40–50 s; without a pause there, at
30–60 s; otherwise at the least likely moment of speech at 40–50 s. Silence around chunks is dropped. Memory holds one
chunk and the audio read ahead of it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np

from pipeline.transcribe.vad import START, WINDOW, WINDOW_S, Vad, speech
from shards.manifests.clip_rule import ClipRule, silences
from shards.sample import SAMPLE_RATE

MARGIN_S = 0.2  # of silence kept around speech


@dataclass(frozen=True)
class Chunk:
    """Audio that is decoded in one prompt."""

    number: int  # from 0
    start: float  # seconds from the start of the recording
    wave: np.ndarray  # (n,) float32 at 16 kHz
    speech: tuple[tuple[float, float], ...]  # seconds from the chunk's start

    @property
    def seconds(self) -> float:
        """Length in seconds."""
        return len(self.wave) / SAMPLE_RATE

    @property
    def end(self) -> float:
        """End in seconds from the start of the recording."""
        return self.start + self.seconds


@dataclass
class Heard:
    """Seconds read and seconds of speech in chunks so far."""

    seconds: float = 0.0
    speech: float = 0.0  # of chunks


class Chunker:
    """Cuts a stream. Iterate over :meth:`cut`; :attr:`heard` is the progress."""

    def __init__(self, vad: Vad, rule: ClipRule | None = None) -> None:
        """Take a fresh detector, and the rule for lengths."""
        self._vad, self._rule = vad, rule or ClipRule()
        self._wave = np.zeros(0, np.float32)
        self._probabilities = np.zeros(0, np.float32)  # of the whole windows of _wave
        self._origin = 0  # samples before _wave
        self._count = 0
        self.heard = Heard()

    def cut(self, blocks: Iterable[np.ndarray]) -> Iterator[Chunk]:
        """Yield chunks in order, none in silence. An error in `blocks` is raised after the last chunk."""
        error: Exception | None = None
        coming = iter(blocks)
        while True:
            try:
                block = next(coming)
            except StopIteration:
                break
            except Exception as e:  # noqa: BLE001 - raised again below, after the chunks before it
                error = e
                break
            self._take(block)
            yield from self._ready()
        self._pad()
        yield from self._ready(last=True)
        if error is not None:
            raise error

    def _take(self, block: np.ndarray) -> None:
        self._wave = np.concatenate([self._wave, block])
        self.heard.seconds += len(block) / SAMPLE_RATE
        done = len(self._probabilities) * WINDOW
        whole = (len(self._wave) - done) // WINDOW * WINDOW
        found = self._vad.probabilities(self._wave[done : done + whole])
        self._probabilities = np.concatenate([self._probabilities, found])

    def _pad(self) -> None:
        """Pad the last window with silence."""
        left = len(self._wave) - len(self._probabilities) * WINDOW
        if left:
            found = self._vad.probabilities(np.pad(self._wave[-left:], (0, WINDOW - left)))
            self._probabilities = np.concatenate([self._probabilities, found])

    def _ready(self, last: bool = False) -> Iterator[Chunk]:
        """Yield the chunks that are determined by the audio read so far.

        A chunk depends on the audio up to the longest length and a margin only, so that chunks of a live stream are
        those of a file, whatever the sizes of blocks.
        """
        ahead = self._rule.widened[1] + MARGIN_S
        while True:
            self._skip_silence()
            have = len(self._wave) / SAMPLE_RATE
            if not len(self._wave) or (have <= ahead and not last):
                return
            probabilities = self._probabilities
            if have > ahead:
                probabilities = probabilities[: int(ahead / WINDOW_S)]
                have = ahead
            stretches = [(a, min(b, have)) for a, b in speech(probabilities) if a < have]
            at = have if last and have <= self._rule.seconds[1] else self._point(stretches, have)
            own = [(a, min(b, at)) for a, b in stretches if a < at]
            if own:
                yield self._make(own, at)
            self._drop(round(at * SAMPLE_RATE))
            if not len(self._wave):
                return

    def _make(self, own: list[tuple[float, float]], at: float) -> Chunk:
        first, final = max(0.0, own[0][0] - MARGIN_S), min(at, own[-1][1] + MARGIN_S)
        wave = self._wave[round(first * SAMPLE_RATE) : round(final * SAMPLE_RATE)].copy()
        stretches = tuple((a - first, min(b, final) - first) for a, b in own)
        self.heard.speech += sum(b - a for a, b in stretches)
        self._count += 1
        return Chunk(self._count - 1, self._origin / SAMPLE_RATE + first, wave, stretches)

    def _skip_silence(self) -> None:
        """Drop the audio before the first possible speech."""
        loud = np.flatnonzero(self._probabilities >= START)
        windows = int(loud[0]) if len(loud) else len(self._probabilities)
        keep = int(np.ceil(MARGIN_S / WINDOW_S))
        if windows > keep:
            self._drop((windows - keep) * WINDOW)

    def _drop(self, samples: int) -> None:
        """Drop the first samples, in whole windows if possible."""
        windows = min(-(-samples // WINDOW), len(self._probabilities))
        if samples >= len(self._wave):
            windows = len(self._probabilities)
        samples = min(windows * WINDOW, len(self._wave))
        self._wave = self._wave[samples:]
        self._probabilities = self._probabilities[windows:]
        self._origin += samples

    def _point(self, stretches: list[tuple[float, float]], have: float) -> float:
        """Return the end of the chunk that begins at 0: a whole number of windows."""
        pauses = [(a, b) for a, b in silences_of(stretches, have) if a > 0]
        for low, high in (self._rule.seconds, self._rule.widened):
            inside = [(max(a, low), min(b, high)) for a, b in pauses if min(b, high) > max(a, low)]
            if inside:
                a, b = max(inside, key=lambda p: p[1] - p[0])
                return round((a + b) / 2 / WINDOW_S) * WINDOW_S
        low, high = (round(s / WINDOW_S) for s in self._rule.seconds)
        high = max(high, low + 1)  # a range may be a single length
        smooth = np.convolve(self._probabilities, np.ones(5) / 5, mode="same")[low:high]
        return (low + int(np.argmin(smooth))) * WINDOW_S


def silences_of(stretches: Iterable[tuple[float, float]], total: float) -> list[tuple[float, float]]:
    """Return the stretches of 0–`total` without speech."""
    from shards.sample import Segment

    return silences([Segment("", a, b, "") for a, b in stretches], total)
