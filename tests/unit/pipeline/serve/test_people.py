"""The folder of enrolled people: vectors with the extractor's hash, no audio unless it is asked for."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import soundfile

from pipeline.serve.people import SUFFIX, PeopleFolder
from shards.errors import AudioError, ConfigError, SpeakerError, StorageError
from shards.sample import SAMPLE_RATE

SHA = "a" * 64


def unit(seed: int) -> np.ndarray:
    found = np.random.default_rng(seed).normal(size=8).astype(np.float32)
    return found / np.linalg.norm(found)


def test_people_are_kept_over_a_restart(tmp_path: Path) -> None:
    people = PeopleFolder(tmp_path / "new", "pitch", SHA, 3)
    assert people.put("Mike", unit(0))[1]
    assert people.put("a/b 李", unit(1))[1]
    assert not people.put("Mike", unit(2))[1]
    again = PeopleFolder(tmp_path / "new", "pitch", SHA, 3)
    found = again.enrolled()
    assert set(found.names) == {"Mike", "a/b 李"}
    assert np.array_equal(again.enrolled(["Mike"]).vectors[0], unit(2))
    assert again.delete("Mike")
    assert not again.delete("Mike")
    assert [p.name for p in PeopleFolder(tmp_path / "new", "pitch", SHA, 3).listed()] == ["a/b 李"]
    content = json.loads(again.path("a/b 李").read_text())
    assert content.keys() == {"name", "extractor", "extractor_sha256", "created", "vector"}
    assert content["extractor_sha256"] == SHA


def test_no_more_people_than_the_limit(tmp_path: Path) -> None:
    people = PeopleFolder(tmp_path, "pitch", SHA, 1)
    people.put("Mike", unit(0))
    with pytest.raises(ConfigError, match="as many as this server takes"):
        people.put("Lucy", unit(1))
    people.put("Mike", unit(1))
    with pytest.raises(SpeakerError, match="not enrolled: Lucy"):
        people.enrolled(["Lucy"])


def test_a_file_that_cannot_be_written_enrols_no_one(tmp_path: Path) -> None:
    people = PeopleFolder(tmp_path, "pitch", SHA, 3, keep_audio=True)
    people.path("Mike").mkdir()  # in the way
    with pytest.raises(StorageError):
        people.put("Mike", unit(0))
    people.path("Mike").rmdir()
    assert people.listed() == []
    assert list(tmp_path.iterdir()) == []
    soundfile.write(tmp_path / "a.wav", np.full(SAMPLE_RATE, 0.1), SAMPLE_RATE)
    people.store_audio("Mike", [tmp_path / "a.wav"])
    with pytest.raises(AudioError):
        people.store_audio("Mike", [tmp_path / "missing.wav"])
    assert len(people.audio_paths("Mike")) == 1  # the clip that was there


@pytest.mark.parametrize(("identity", "sha"), [("other", SHA), ("pitch", "b" * 64)])
def test_vectors_of_another_extractor_are_refused(tmp_path: Path, identity: str, sha: str) -> None:
    PeopleFolder(tmp_path, "pitch", SHA, 3).put("Mike", unit(0))
    with pytest.raises(ConfigError, match="1 of 1 people were enrolled with pitch"):
        PeopleFolder(tmp_path, identity, sha, 3)


@pytest.mark.parametrize("content", ["", "{}", '{"name": "x", "vector": "y"}'])
def test_a_damaged_file_is_named(tmp_path: Path, content: str) -> None:
    (tmp_path / f"x{SUFFIX}").write_text(content)
    with pytest.raises(SpeakerError, match="is damaged"):
        PeopleFolder(tmp_path, "pitch", SHA, 3)


def test_a_vector_that_is_no_unit_vector_is_damage(tmp_path: Path) -> None:
    people = PeopleFolder(tmp_path, "pitch", SHA, 3)
    people.put("Mike", unit(0) * 2)
    with pytest.raises(SpeakerError, match="unit norm"):
        PeopleFolder(tmp_path, "pitch", SHA, 3)


def test_audio_is_replaced_and_deleted_with_the_person(tmp_path: Path) -> None:
    people = PeopleFolder(tmp_path / "p", "pitch", SHA, 3, keep_audio=True)
    people.put("Mike", unit(0))
    clips = [tmp_path / "a.wav", tmp_path / "b.wav"]
    for clip in clips:
        soundfile.write(clip, np.full(2 * SAMPLE_RATE, 0.1), 2 * SAMPLE_RATE)
    people.store_audio("Mike", clips)
    people.store_audio("Mike", clips[:1])
    (stored,) = people.audio_paths("Mike")
    wave, rate = soundfile.read(stored)
    assert (len(wave), rate) == (SAMPLE_RATE, SAMPLE_RATE)
    people.delete("Mike")
    assert list((tmp_path / "p").iterdir()) == []
