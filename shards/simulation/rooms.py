"""Rooms and noise for simulated conversations."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Sequence
from itertools import groupby
from pathlib import Path

import numpy as np

from shards.errors import ConfigError
from shards.manifests.manifest import RECORDINGS, SPEAKERS, Recording, read_manifest, read_speakers
from shards.sample import SAMPLE_RATE
from shards.sound.audio import load
from shards.weights.fetch import sha256_of

AUDIO_SUFFIXES = {".wav", ".flac", ".ogg", ".mp3", ".opus"}
BABBLE_VOICES = 6
ROOM_M = ((3.0, 8.0), (3.0, 6.0), (2.4, 3.5))  # length, width, height
RT60_S = (0.15, 0.6)
FROM_WALL_M, FROM_MICROPHONE_M = 0.4, 0.5
MAX_IMAGE_ORDER = 17

RESPONSE_S = 2.0  # more of a recorded response is its noise
Rooms = Callable[[np.random.Generator, int], list[np.ndarray]]  # (rng, number of places) → impulse responses
Noise = Callable[[np.random.Generator, int, Collection[str]], np.ndarray]  # (rng, samples, persons not to use) → wave


def room_responses(rng: np.random.Generator, count: int) -> list[np.ndarray]:
    """Impulse responses from `count` places of one drawn shoebox room to one microphone.

    Image-source method (pyroomacoustics). The direct sound is at index 0 with height 1, so that times stay true and
    levels are those of the direct sound; what came before it is the delay of the way, and is cut off.
    """
    import pyroomacoustics as pra

    size = np.array([rng.uniform(*edge) for edge in ROOM_M])
    rt60 = rng.uniform(*RT60_S)
    absorption, order = pra.inverse_sabine(max(rt60, _shortest_rt60(size)), size)
    room = pra.ShoeBox(
        size, fs=SAMPLE_RATE, materials=pra.Material(min(absorption, 0.95)), max_order=min(order, MAX_IMAGE_ORDER)
    )
    microphone = rng.uniform(FROM_WALL_M, size - FROM_WALL_M)
    room.add_microphone(microphone)
    for _ in range(count):
        place = rng.uniform(FROM_WALL_M, size - FROM_WALL_M)
        while np.linalg.norm(place - microphone) < FROM_MICROPHONE_M:
            place = rng.uniform(FROM_WALL_M, size - FROM_WALL_M)
        room.add_source(place)
    room.compute_rir()
    return [from_direct_sound(response) for response in room.rir[0]]


def from_direct_sound(response: np.ndarray) -> np.ndarray:
    """(n,) → float32 from its largest value on, which becomes 1."""
    direct = int(np.argmax(np.abs(response)))
    if response[direct] == 0:
        raise ConfigError("an impulse response is silent")
    return np.asarray(response[direct:] / response[direct], dtype=np.float32)


def open_rooms(kind: str) -> Rooms | None:
    """Rooms by their name on the command line: ``none``, ``pyroomacoustics`` or a folder of recorded responses."""
    if kind == "none":
        return None
    return room_responses if kind == "pyroomacoustics" else RecordedRooms(Path(kind))


class RecordedRooms:
    """Impulse responses under a folder; those in one subfolder are places in one room. First channel, at most 2 s."""

    def __init__(self, folder: Path) -> None:
        files = sorted(p for p in folder.rglob("*") if p.suffix.lower() in AUDIO_SUFFIXES)
        if not files:
            raise ConfigError(
                f"rooms {str(folder)!r}: no recordings there; give a folder of impulse responses, or pyroomacoustics"
            )
        self.rooms = [sorted(group) for _, group in groupby(files, key=lambda p: p.parent)]

    def __call__(self, rng: np.random.Generator, count: int) -> list[np.ndarray]:
        """Of one room; two speakers share a place only where it has fewer responses than speakers."""
        room = self.rooms[int(rng.integers(len(self.rooms)))]
        places = [room[i] for i in rng.permutation(len(room))]
        chosen = [places[i % len(places)] for i in range(count)]
        return [from_direct_sound(load(path, channel=0))[: round(RESPONSE_S * SAMPLE_RATE)] for path in chosen]


def _shortest_rt60(size: np.ndarray) -> float:
    """Reverberation time at an absorption of 0.95, by Sabine's formula."""
    surface = 2 * (size[0] * size[1] + size[0] * size[2] + size[1] * size[2])
    return float(0.161 * np.prod(size) / (surface * 0.95))


def convolve(wave: np.ndarray, response: np.ndarray) -> np.ndarray:
    """(n,) * (m,) → (n + m − 1,) by FFT, in blocks."""
    from scipy.signal import oaconvolve

    return np.asarray(oaconvolve(wave, response), dtype=np.float32)


def open_noise(kind: str) -> Noise | None:
    """Noise by its name on the command line: ``none``, ``coloured``, ``babble:MANIFEST`` or a folder of recordings."""
    if kind == "none":
        return None
    if kind == "coloured":
        return lambda rng, length, _: coloured_noise(rng, length)
    if kind.startswith("babble:"):
        return Babble(Path(kind.removeprefix("babble:")))
    return RecordedNoise(Path(kind))


def recorded(noise: str, rooms: str) -> list[str]:
    """What the two names stand for, where that is files: other ones in their place are other noise and other rooms.

    Returns:
        A hash for each that is of files: of a manifest, or of the names and sizes of a folder's recordings.
    """
    found = []
    if noise.startswith("babble:"):
        manifest = Path(noise.removeprefix("babble:"))
        found += [sha256_of(manifest / name) for name in (RECORDINGS, SPEAKERS)]
    for name in (noise, rooms):
        folder = Path(name)
        if name not in ("none", "coloured", "pyroomacoustics") and not name.startswith("babble:"):
            files = sorted(p for p in folder.rglob("*") if p.suffix.lower() in AUDIO_SUFFIXES)
            told = "".join(f"{p.relative_to(folder)} {p.stat().st_size}\n" for p in files)
            found.append(hashlib.sha256(told.encode()).hexdigest())
    return found


def coloured_noise(rng: np.random.Generator, length: int) -> np.ndarray:
    """Gaussian noise whose power falls with frequency as 1/f^a, a ~ U(0, 2): white to brown."""
    spectrum = np.fft.rfft(rng.standard_normal(length))
    frequency = np.maximum(np.fft.rfftfreq(length, 1 / SAMPLE_RATE), 20.0)
    shaped = np.fft.irfft(spectrum * frequency ** (-rng.uniform(0, 2) / 2), length)
    return np.asarray(shaped / (np.sqrt(np.mean(shaped**2)) + 1e-12), dtype=np.float32)


class Babble:
    """Six voices of other persons talking at once: generated, not recorded, noise."""

    def __init__(self, manifest: Path) -> None:
        person_of = {s.speaker: s.person or s.speaker for s in read_speakers(manifest)}
        self.recordings: dict[str, list[Recording]] = {}
        for recording in read_manifest(manifest):
            if len(recording.speakers) == 1:
                person = person_of.get(recording.speakers[0], recording.speakers[0])
                self.recordings.setdefault(person, []).append(recording)

    def __call__(self, rng: np.random.Generator, length: int, persons: Collection[str]) -> np.ndarray:
        free = sorted(set(self.recordings) - set(persons))
        if not free:
            raise ConfigError("babble: every person of its manifest speaks in the conversation; give it other voices")
        total = np.zeros(length, np.float32)
        for voice in range(BABBLE_VOICES):
            own = self.recordings[free[voice % len(free)] if voice < len(free) else free[int(rng.integers(len(free)))]]
            total += self._stream(rng, own, length)
        return total

    def _stream(self, rng: np.random.Generator, recordings: Sequence[Recording], length: int) -> np.ndarray:
        stream = np.zeros(0, np.float32)
        while len(stream) < length:
            r = recordings[int(rng.integers(len(recordings)))]
            stream = np.concatenate([stream, load(r.audio, channel=r.channel, start=r.start, duration=r.duration)])
        return stream[:length]


class RecordedNoise:
    """Stretches of recordings under a folder; one that is too short is repeated."""

    def __init__(self, folder: Path) -> None:
        self.files = sorted(p for p in folder.rglob("*") if p.suffix.lower() in AUDIO_SUFFIXES)
        if not self.files:
            raise ConfigError(
                f"noise {str(folder)!r}: no recordings there; give a folder of them, or none, coloured, babble:MANIFEST"
            )

    def __call__(self, rng: np.random.Generator, length: int, persons: Collection[str]) -> np.ndarray:
        wave = load(self.files[int(rng.integers(len(self.files)))])
        wave = np.roll(wave, -int(rng.integers(len(wave))))
        return np.resize(wave, length)


def add_noise(speech: np.ndarray, noise: np.ndarray, spoken: np.ndarray, snr_db: float) -> np.ndarray:
    """Speech plus noise, scaled so that 10 log10(speech power where `spoken` / noise power) = `snr_db`."""
    power = float(np.mean(speech[spoken].astype(np.float64) ** 2))
    noise_power = float(np.mean(noise.astype(np.float64) ** 2))
    if noise_power == 0:
        raise ConfigError("the noise is silent")
    return np.asarray(speech + noise * np.sqrt(power / noise_power / 10 ** (snr_db / 10)), dtype=np.float32)
