"""Room impulse responses for simulated conversations: simulated or recorded."""

from __future__ import annotations

from collections.abc import Callable
from itertools import groupby, islice
from pathlib import Path

import numpy as np

from shards.errors import ConfigError
from shards.sample import SAMPLE_RATE
from shards.simulation.recorded_files import Report, recorded_files
from shards.sound.audio import load

ROOM_M = ((3.0, 8.0), (3.0, 6.0), (2.4, 3.5))  # length, width, height
RT60_S = (0.15, 0.6)
FROM_WALL_M, FROM_MICROPHONE_M = 0.4, 0.5
MAX_IMAGE_ORDER = 17

RESPONSE_S = 2.0  # recorded responses are cut after this, since the rest is noise
Rooms = Callable[[np.random.Generator, int], list[np.ndarray]]  # (rng, number of positions) → impulse responses


def room_responses(rng: np.random.Generator, count: int) -> list[np.ndarray]:
    """Draw impulse responses from `count` positions in one shoebox room to one microphone.

    Image-source method (pyroomacoustics). The propagation delay is removed and the direct sound scaled to 1 at index 0,
    so that times and levels of the direct sound are unchanged.
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
    """Cut a response (n,) at its maximum, scaled to 1; returns float32."""
    direct = int(np.argmax(np.abs(response)))
    if response[direct] == 0:
        raise ConfigError("an impulse response is silent")
    return np.asarray(response[direct:] / response[direct], dtype=np.float32)


def open_rooms(kind: str, report: Report = lambda _: None) -> Rooms | None:
    """Return the rooms of ``--rooms``: ``none``, ``pyroomacoustics`` or a folder of recorded responses.

    Args:
        report: called with the name of each silent response; another one is drawn instead.
    """
    if kind == "none":
        return None
    return room_responses if kind == "pyroomacoustics" else RecordedRooms(Path(kind), report)


class RecordedRooms:
    """Recorded impulse responses; each subfolder is a room. First channel, at most 2 s."""

    def __init__(self, folder: Path, report: Report = lambda _: None) -> None:
        self.folder, self._report = folder, report
        files = recorded_files(folder)
        if not files:
            raise ConfigError(
                f"--rooms {str(folder)!r}: no recordings found; expected a folder of impulse responses, none or "
                "pyroomacoustics"
            )
        self.rooms = [sorted(group) for _, group in groupby(files, key=lambda p: p.parent)]

    def __call__(self, rng: np.random.Generator, count: int) -> list[np.ndarray]:
        """Draw responses of one room; positions repeat only if it has fewer responses than speakers."""
        rooms = list(self.rooms)
        while rooms:
            room = rooms[int(rng.integers(len(rooms)))]
            places = (room[i] for i in rng.permutation(len(room)))
            found = list(islice(filter(None, map(self._response, places)), count))
            if found:
                return [found[i % len(found)][0] for i in range(count)]
            rooms.remove(room)
        raise ConfigError(
            f"--rooms {str(self.folder)!r}: all impulse responses are silent, such as {self.rooms[0][0].name}; "
            "name a folder with other ones"
        )

    def _response(self, path: Path) -> tuple[np.ndarray] | None:
        """Return the response of a file, in a tuple; None if it is silent."""
        response = load(path, channel=0)
        if not response.any():
            self._report(str(path))
            return None
        return (from_direct_sound(response)[: round(RESPONSE_S * SAMPLE_RATE)],)


def _shortest_rt60(size: np.ndarray) -> float:
    """Return the reverberation time at an absorption of 0.95 by Sabine's formula."""
    surface = 2 * (size[0] * size[1] + size[0] * size[2] + size[1] * size[2])
    return float(0.161 * np.prod(size) / (surface * 0.95))


def convolve(wave: np.ndarray, response: np.ndarray) -> np.ndarray:
    """Convolve (n,) with (m,) to (n + m − 1,) by FFT in blocks."""
    from scipy.signal import oaconvolve

    return np.asarray(oaconvolve(wave, response), dtype=np.float32)
