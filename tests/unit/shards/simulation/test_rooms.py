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


def test_silent_responses_are_skipped_and_named(tmp_path: Path) -> None:
    """One of three in a room; a room with no other is not used."""
    click = np.zeros(1000)
    click[10] = 1e-6  # faint, and scaled to 1
    for name, response in (("a/1", click), ("a/2", click * 0), ("a/3", click * 2), ("b/1", click * 0)):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        soundfile.write(tmp_path / f"{name}.wav", response, 16_000, subtype="FLOAT")
    listed: list[str] = []
    rooms = open_rooms(str(tmp_path), listed.append)
    assert rooms is not None
    for seed in range(20):
        made = rooms(np.random.default_rng(seed), 3)
        assert [float(r[0]) for r in made] == pytest.approx([1, 1, 1])
    assert set(listed) == {str(tmp_path / "a/2.wav"), str(tmp_path / "b/1.wav")}
    for name in ("1", "3"):
        (tmp_path / f"a/{name}.wav").unlink()
    with pytest.raises(ConfigError, match=r"all impulse responses are silent, such as 2.wav; name a folder"):
        open_rooms(str(tmp_path))(np.random.default_rng(0), 2)  # type: ignore[misc]


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
