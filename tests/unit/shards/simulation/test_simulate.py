"""Simulated sets: repeatable, resumable, disjoint."""

import hashlib
import json
import os
import shutil
import signal
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import soundfile

from shards.cli import main
from shards.errors import ConfigError, StorageError
from shards.manifests.manifest import (
    RECORDINGS,
    SPEAKERS,
    read_manifest,
    read_speakers,
)
from shards.sample import SAMPLE_RATE
from shards.simulation.recorded_files import content_hashes
from shards.simulation.simulate import fingerprints, simulate
from shards.sound.audio import load
from shards.storage.local import atomic_file
from tests.support.conversations import SHORT


def content(folder: Path) -> dict[str, str]:
    files = [*folder.rglob("*.flac"), folder / "recordings.jsonl"]
    return {f.relative_to(folder).as_posix(): hashlib.sha256(f.read_bytes()).hexdigest() for f in files}


def test_output_does_not_depend_on_workers_or_size_of_the_set(words: Path, tmp_path: Path) -> None:
    hard = replace(SHORT, rooms="pyroomacoustics", noise="coloured", overlap=0.5)
    simulate([words], tmp_path / "a" / "set", hard, count=6, workers=1)
    simulate([words], tmp_path / "b" / "set", hard, count=6, workers=2)
    assert content(tmp_path / "a" / "set") == content(tmp_path / "b" / "set")
    simulate([words], tmp_path / "c" / "set", hard, count=9)
    longer = content(tmp_path / "c" / "set")
    assert all(longer[k] == v for k, v in content(tmp_path / "a" / "set").items() if k.endswith("flac"))


def test_interrupted_set_resumes_and_other_settings_start_over(words: Path, tmp_path: Path) -> None:
    out = tmp_path / "set"
    simulate([words], out, SHORT, count=5)
    whole = content(out)
    files = sorted(out.rglob("*.flac"))
    files[1].unlink()
    kept = files[2].stat().st_mtime_ns
    simulate([words], out, SHORT, count=5, workers=2)
    assert content(out) == whole
    assert files[2].stat().st_mtime_ns == kept
    simulate([words], out, replace(SHORT, noise="coloured"), count=5)
    noisy = content(out)
    assert all(noisy[k] != v for k, v in whole.items() if k.endswith("flac"))


def test_changed_noise_recordings_start_over(words: Path, tmp_path: Path) -> None:
    noise, out = tmp_path / "noise", tmp_path / "set"
    noise.mkdir()
    for seconds in (3, 4):
        soundfile.write(noise / "hum.wav", np.random.default_rng(seconds).normal(0, 0.1, seconds * 16_000), 16_000)
        simulate([words], out, replace(SHORT, noise=str(noise)), count=3)
        fresh = tmp_path / f"fresh{seconds}" / "set"
        simulate([words], fresh, replace(SHORT, noise=str(noise)), count=3)
        assert content(out) == content(fresh)


def test_content_hashes_include_the_babble_manifest(words: Path, tmp_path: Path) -> None:
    source = shutil.copytree(words, tmp_path / "words")
    before = content_hashes(f"babble:{source}", "none")
    (source / SPEAKERS).write_text((source / SPEAKERS).read_text().replace('"bob"', '"ann"'))
    assert content_hashes(f"babble:{source}", "none") != before
    assert content_hashes("coloured", "pyroomacoustics") == []


def test_changed_person_of_a_voice_starts_over(words: Path, tmp_path: Path) -> None:
    """Persons restrict who may be in one conversation, so the set depends on speakers.jsonl."""
    source = shutil.copytree(words, tmp_path / "words")
    simulate([source], tmp_path / "o/set", SHORT, count=6)
    text = (source / SPEAKERS).read_text()
    (source / SPEAKERS).write_text(text.replace('"bob"', '"ann"'))
    for out in ("o/set", "fresh/set"):
        simulate([source], tmp_path / out, SHORT, count=6)
    sets = [content(tmp_path / o / "set") for o in ("o", "fresh")]
    assert sets[0] == sets[1]


def test_genders_of_the_sources_are_those_of_the_set(words: Path, tmp_path: Path) -> None:
    source = shutil.copytree(words, tmp_path / "words")
    infos = list(read_speakers(source))
    stated = {s.speaker: "fm"[i % 2] for i, s in enumerate(infos)}
    rows = [json.dumps(asdict(replace(s, gender=stated[s.speaker]))) + "\n" for s in infos]
    (source / SPEAKERS).write_text("".join(rows))
    simulate([source], tmp_path / "set", SHORT, count=6)
    found = {s.speaker: s.gender for s in read_speakers(tmp_path / "set")}
    assert len(found) > 1
    assert found == {s: stated[s] for s in found}


def test_set_locked_by_another_writer_is_not_changed(words: Path, tmp_path: Path) -> None:
    out = tmp_path / "set"
    simulate([words], out, SHORT, count=3)
    before = content(out)
    with atomic_file(out / RECORDINGS) as file:
        file.write((out / RECORDINGS).read_bytes())
        with pytest.raises(StorageError, match="another process is writing it"):
            simulate([words], out, replace(SHORT, noise="coloured"), count=3)
    assert content(out) == before


def test_killed_replacement_leaves_no_manifest(words: Path, tmp_path: Path, monkeypatch) -> None:
    """The former recordings.jsonl would refer to the new set's audio."""
    out = tmp_path / "set"
    simulate([words], out, SHORT, count=3)

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("shards.simulation.simulate.render", killed)
    with pytest.raises(KeyboardInterrupt):
        simulate([words], out, replace(SHORT, noise="coloured"), count=3)
    assert not (out / RECORDINGS).exists()


def test_killed_worker_is_an_error(words: Path, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr("shards.simulation.simulate.render", lambda *_: os.kill(os.getpid(), signal.SIGKILL))
    with pytest.raises(ConfigError, match="a worker process was killed"):
        simulate([words], tmp_path / "set", SHORT, count=3, workers=2)


def test_hours_of_audio(words: Path, tmp_path: Path) -> None:
    audit = simulate([words], tmp_path / "s", SHORT, hours=0.01)
    assert 0.01 <= audit["audio_hours"] < 0.01 + 8 / 3600


def common(one: Path, other: Path) -> set[object]:
    """Conversations and audio files that two sets share."""
    audio = [{hashlib.sha256(Path(r.audio).read_bytes()).digest() for r in read_manifest(f)} for f in (one, other)]
    return (fingerprints(one) & fingerprints(other)) | (audio[0] & audio[1])


def test_disjoint_sets(words: Path, tmp_path: Path) -> None:
    one = replace(SHORT, speakers=(1, 1), turns=(1, 1), utterances_per_turn=(1, 2))
    simulate([words], tmp_path / "train", one, count=200, seed=0)
    simulate([words], tmp_path / "other", one, count=60, seed=1)
    assert common(tmp_path / "train", tmp_path / "other")
    simulate([words], tmp_path / "test", one, count=60, seed=1, disjoint_from=[tmp_path / "train"])
    assert not common(tmp_path / "train", tmp_path / "test")
    all_words = replace(one, utterances_per_turn=(1, 1))
    simulate([words], tmp_path / "all", all_words, count=700)
    with pytest.raises(ConfigError, match="different from the conversations of the other sets"):
        simulate([words], tmp_path / "none", all_words, count=1, disjoint_from=[tmp_path / "all"])


def test_command_and_manifest(words: Path, tmp_path: Path, capsys) -> None:
    out = str(tmp_path / "sdr.v1")
    options = ["--count", "4", "--turns", "2-3", "--seconds", "0-6", "--workers", "1", "--seed", "7", "--split", "dev"]
    assert main(["simulate", str(words), out, *options]) == 0
    made = list(read_manifest(out))
    assert [r.key for r in made] == [f"sdr_v1-7-{k:07d}" for k in range(4)]
    for recording in made:
        assert recording.split == "dev"
        assert len(load(recording.audio)) == round((recording.duration or 0) * SAMPLE_RATE)
        assert recording.sources
        assert all(k.startswith("v") for k in recording.sources)
    assert main(["simulate", str(words), out, "--count", "1", "--speakers", "6-6"]) == 1
    assert "5 different persons" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["simulate", str(words), out, "--count", "1", "--speakers", "4-2"])
    assert main(["simulate", str(words), out, "--count", "1", "--seconds", "0.1-0.2"]) == 1
    assert "allow more seconds" in capsys.readouterr().err
