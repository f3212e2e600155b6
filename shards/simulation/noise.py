"""Noise for simulated conversations: coloured, babble or recorded."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Collection, Sequence
from itertools import islice
from pathlib import Path

import numpy as np

from shards.errors import ConfigError
from shards.manifests.manifest import Recording, read_manifest, read_speakers
from shards.sample import SAMPLE_RATE
from shards.simulation.recorded_files import Report, is_silent, recorded_files, sounding
from shards.sound.audio import load

BABBLE_VOICES = 6
RECENT_BYTES = 64 << 20  # of recordings that babble keeps decoded: a set draws the same short ones again and again
ATTEMPTS = 100  # draws of a babble before it is an error that all of them are silent
Noise = Callable[[np.random.Generator, int, Collection[str]], np.ndarray]  # (rng, samples, persons not to use) → wave


def open_noise(kind: str, report: Report = lambda _: None) -> Noise | None:
    """Return the noise of ``--noise``: ``none``, ``coloured``, ``babble:MANIFEST`` or a folder of recordings.

    Digital silence is never returned: another stretch or recording is drawn, by the same generator.

    Args:
        report: called with the name of each recording that is silent from start to end.
    """
    if kind == "none":
        return None
    if kind == "coloured":
        return lambda rng, length, _: coloured_noise(rng, length)
    if kind.startswith("babble:"):
        return Babble(Path(kind.removeprefix("babble:")), report)
    return RecordedNoise(Path(kind), report)


def coloured_noise(rng: np.random.Generator, length: int) -> np.ndarray:
    """Draw (length,) Gaussian noise with power 1/f^a, a ~ U(0, 2): white to brown."""
    spectrum = np.fft.rfft(rng.standard_normal(length))
    frequency = np.maximum(np.fft.rfftfreq(length, 1 / SAMPLE_RATE), 20.0)
    shaped = np.fft.irfft(spectrum * frequency ** (-rng.uniform(0, 2) / 2), length)
    return np.asarray(shaped / (np.sqrt(np.mean(shaped**2)) + 1e-12), dtype=np.float32)


class Babble:
    """Babble of six voices of persons outside the conversation, mixed from a manifest."""

    def __init__(self, manifest: Path, report: Report = lambda _: None) -> None:
        self.manifest, self._report = manifest, report
        self._recent = _RecentWaves(RECENT_BYTES)
        person_of = {s.speaker: s.person or s.speaker for s in read_speakers(manifest)}
        self.recordings: dict[str, list[Recording]] = {}
        for recording in read_manifest(manifest):
            if len(recording.speakers) == 1:
                person = person_of.get(recording.speakers[0], recording.speakers[0])
                self.recordings.setdefault(person, []).append(recording)

    def __call__(self, rng: np.random.Generator, length: int, persons: Collection[str]) -> np.ndarray:
        free = sorted(set(self.recordings) - set(persons))
        if not free:
            raise ConfigError(
                "babble: every person of the manifest speaks in the conversation; use a manifest with other voices"
            )
        for _ in range(ATTEMPTS):
            drawn: dict[str, Recording] = {}
            total = np.zeros(length, np.float32)
            for voice in range(BABBLE_VOICES):
                person = free[voice % len(free)] if voice < len(free) else free[int(rng.integers(len(free)))]
                total += self._stream(rng, self.recordings[person], length, drawn)
            if not is_silent(total):
                return total
            for r in drawn.values():
                if is_silent(self._recent.load(r)):
                    self._report(f"{r.audio} ({r.key})")
        raise ConfigError(
            f"--noise babble:{self.manifest}: {ATTEMPTS} draws were silent, the last of {', '.join(islice(drawn, 3))}; "
            "use a manifest whose recordings are not silent"
        )

    def _stream(
        self, rng: np.random.Generator, recordings: Sequence[Recording], length: int, drawn: dict[str, Recording]
    ) -> np.ndarray:
        stream = np.zeros(0, np.float32)
        while len(stream) < length:
            r = recordings[int(rng.integers(len(recordings)))]
            drawn[r.key] = r
            stream = np.concatenate([stream, self._recent.load(r)])
        return stream[:length]


class RecordedNoise:
    """Spans of the recordings under a folder; short recordings are repeated."""

    def __init__(self, folder: Path, report: Report = lambda _: None) -> None:
        self.folder, self._report = folder, report
        self.files = recorded_files(folder)
        if not self.files:
            raise ConfigError(
                f"--noise {str(folder)!r}: no recordings found; expected a folder of recordings, none, coloured or "
                "babble:MANIFEST"
            )

    def __call__(self, rng: np.random.Generator, length: int, persons: Collection[str]) -> np.ndarray:
        left = list(self.files)
        while left:
            path = left[int(rng.integers(len(left)))]
            wave = load(path)
            span = np.resize(np.roll(wave, -int(rng.integers(len(wave)))), length)
            if not is_silent(span):
                return span
            if len(sound := sounding(wave)):  # a silent stretch of a good recording
                return np.resize(np.roll(wave, -int(rng.choice(sound))), length)
            self._report(str(path))
            left.remove(path)
        raise ConfigError(
            f"--noise {str(self.folder)!r}: all {len(self.files)} recordings are silent, such as {self.files[0].name}; "
            "name a folder with recordings of noise"
        )


class _RecentWaves:
    """Recordings that were loaded last, decoded, up to a number of bytes."""

    def __init__(self, most: int) -> None:
        self.bytes, self._most = 0, most
        self._waves: OrderedDict[tuple[str, int | None, float, float | None], np.ndarray] = OrderedDict()

    def load(self, recording: Recording) -> np.ndarray:
        place = recording.audio, recording.channel, recording.start, recording.duration
        if place in self._waves:
            self._waves.move_to_end(place)
            return self._waves[place]
        audio, channel, start, duration = place
        wave = self._waves[place] = load(audio, channel=channel, start=start, duration=duration)
        self.bytes += wave.nbytes
        while self.bytes > self._most:
            self.bytes -= self._waves.popitem(last=False)[1].nbytes
        return wave


def add_noise(speech: np.ndarray, noise: np.ndarray, spoken: np.ndarray, snr_db: float) -> np.ndarray:
    """Add noise, scaled so that 10 log10(speech power where `spoken` / noise power) = `snr_db`."""
    power = float(np.mean(speech[spoken].astype(np.float64) ** 2))
    noise_power = float(np.mean(noise.astype(np.float64) ** 2))
    if noise_power == 0:
        raise ConfigError("the noise is silent")
    return np.asarray(speech + noise * np.sqrt(power / noise_power / 10 ** (snr_db / 10)), dtype=np.float32)
