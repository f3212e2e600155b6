"""Rooms: recorded responses and the image-source method."""

import itertools
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile

from shards.errors import ConfigError
from shards.manifests.manifest import (
    read_manifest,
)
from shards.simulation.rooms import convolve, open_rooms, room_responses
from shards.simulation.simulate import simulate
from shards.sound.audio import load
from tests.support.conversations import SHORT


def test_recorded_responses(tmp_path: Path, words: Path) -> None:
    """Each subfolder is a room; a response starts at its direct sound, scaled to 1."""
    for room, place in itertools.product("ab", range(3)):
        response = np.zeros(32_000)
        response[100 + place] = -0.5
        response[1700 + place] = 0.05 * (1 + place) * (1 if room == "a" else -1)  # 0.1 s later
        path = tmp_path / "rirs" / room / f"{place}.wav"
        path.parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(path, np.stack([response, response * 0], 1), 16_000, subtype="FLOAT")
    rooms = open_rooms(str(tmp_path / "rirs"))
    assert rooms is not None
    for seed in range(20):
        made = rooms(np.random.default_rng(seed), 3)
        echoes = [float(r[1600]) for r in made]
        assert all(r[0] == pytest.approx(1, abs=1e-4) for r in made)
        assert len({e > 0 for e in echoes}) == 1  # one room …
        assert len({round(abs(e), 3) for e in echoes}) == 3  # … three places
    simulate([words], tmp_path / "out" / "s", replace(SHORT, rooms=str(tmp_path / "rirs")), count=3)
    simulate([words], tmp_path / "dry" / "s", SHORT, count=3)
    for wet, dry in zip(*(read_manifest(tmp_path / n / "s") for n in ("out", "dry")), strict=True):
        assert wet.segments == dry.segments
        assert not np.array_equal(load(wet.audio), load(dry.audio))
    with pytest.raises(ConfigError, match="no recordings found"):
        open_rooms(str(tmp_path / "nothing"))


def test_room_responses_preserve_times_and_levels_of_the_direct_sound() -> None:
    responses = room_responses(np.random.default_rng(3), 3)
    assert len(responses) == 3
    for response in responses:
        assert response[0] == 1.0
        assert np.abs(response[1:]).max() <= 1.0
        assert np.sum(response[1:] ** 2) > 0.01  # it does reverberate
    click = np.zeros(100, np.float32)
    click[40] = 1
    assert np.argmax(convolve(click, responses[0])) == 40
