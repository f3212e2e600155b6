"""Pseudo-speakers: pitch, labels, manifests and leak checks."""

import itertools
import json
import os
import signal
from pathlib import Path

import numpy as np
import pytest
import soundfile

from shards.cli import main
from shards.errors import ConfigError, ManifestError
from shards.manifests.manifest import Recording, SpeakerInfo, read_manifest, read_speakers, write_manifest
from shards.sample import SAMPLE_RATE, Segment
from shards.simulation.pseudo_speakers import change_speed, chosen_by_key, pseudo_speakers
from tests.support.manifests import tone


@pytest.fixture
def words(tmp_path: Path) -> Path:
    """Two voices of 220 and 330 Hz with three words each."""
    folder, recordings = tmp_path / "words", []
    folder.mkdir()
    for voice, word in itertools.product("ab", range(3)):
        key, seconds = f"{voice}-word{word}", 0.5 + 0.1 * word
        path = folder / f"{key}.flac"
        soundfile.write(path, tone(seconds, pitch=220 if voice == "a" else 330, seed=word), SAMPLE_RATE)
        segment = Segment(f"toy:{voice}", 0.1, seconds, f"w{word}")
        recordings.append(Recording(key, "toy", "all", key, "it", str(path), (segment,), duration=seconds))
    infos = [SpeakerInfo(f"toy:{v}", "toy", "it", "f", f"person-{v}") for v in "ab"]
    write_manifest(folder, recordings, infos, {})
    return folder


def pitch(wave: np.ndarray) -> float:
    return float(np.argmax(np.abs(np.fft.rfft(wave))) * SAMPLE_RATE / len(wave))


@pytest.mark.parametrize("speed", [0.76, 1.32])
def test_pitch_is_proportional_to_the_speed(speed: float) -> None:
    wave = tone(1.0, pitch=300).astype(np.float32)
    changed = change_speed(wave, speed)
    assert len(changed) == pytest.approx(len(wave) / speed, abs=1)
    assert pitch(changed) == pytest.approx(300 * speed, rel=0.01)


def test_speed_labels_are_unique(words: Path, tmp_path: Path) -> None:
    pseudo_speakers(words, tmp_path / "out", [0.875, 0.88, 1.1], ["a-word0"])
    made = {r.key: r for r in read_manifest(tmp_path / "out")}
    assert {k: (r.speakers[0], r.duration) for k, r in made.items()} == {
        "a-word0": ("toy:a", 0.5),
        "a-word0-x0875": ("toy:a@0.875", pytest.approx(0.5 / 0.875, abs=1e-4)),
        "a-word0-x088": ("toy:a@0.88", pytest.approx(0.5 / 0.88, abs=1e-4)),
        "a-word0-x110": ("toy:a@1.10", pytest.approx(0.5 / 1.1, abs=1e-4)),
    }
    assert len({r.audio for r in made.values()}) == 4


def test_killed_worker_is_an_error(words: Path, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(
        "shards.simulation.pseudo_speakers.change_speed", lambda *_: os.kill(os.getpid(), signal.SIGKILL)
    )
    with pytest.raises(ConfigError, match="a worker process was killed"):
        pseudo_speakers(words, tmp_path / "out", [0.9], workers=2)


def test_versions_are_separate_speakers(words: Path, tmp_path: Path) -> None:
    assert main(["pseudo-speakers", str(words), str(tmp_path / "out"), "--speeds", "0.8", "1.25"]) == 0
    made = {r.key: r for r in read_manifest(tmp_path / "out")}
    assert len(made) == 18
    original = {r.key: r for r in read_manifest(words)}
    assert {k: made[k] for k in original} == original
    fast = made["a-word2-x125"]
    (segment,) = fast.segments
    assert (segment.speaker, segment.text, fast.sources) == ("toy:a@1.25", "w2", ("a-word2",))
    assert (segment.start, segment.end, fast.duration) == pytest.approx((0.08, 0.56, 0.56))
    assert pitch(soundfile.read(fast.audio)[0]) == pytest.approx(275, abs=3)
    persons = {s.speaker: s.person for s in read_speakers(tmp_path / "out")}
    assert persons == {
        "toy:a": "person-a", "toy:b": "person-b",
        "toy:a@0.80": None, "toy:a@1.25": None, "toy:b@0.80": None, "toy:b@1.25": None,
    }  # fmt: skip
    audit = json.loads((tmp_path / "out" / "audit.json").read_text())
    assert (audit["recordings"], audit["num_speakers"], audit["pseudo_speakers"]) == (18, 6, 4)


def test_output_does_not_depend_on_the_number_of_workers(words: Path, tmp_path: Path) -> None:
    for workers in (1, 2):
        pseudo_speakers(words, tmp_path / str(workers), [0.9], workers=workers)
    one, two = (sorted(p for p in (tmp_path / str(n)).rglob("*") if p.is_file()) for n in (1, 2))
    assert [p.name for p in one] == [p.name for p in two]
    assert len(one) == 6 + 3
    assert all(a.read_bytes() == b.read_bytes() for a, b in zip(one, two, strict=True))


def test_selection_by_key_partitions_the_recordings(words: Path) -> None:
    everything = list(read_manifest(words))
    withheld = ["a-word[01]", "b-word2"]
    kept = chosen_by_key(everything, without=withheld)
    assert [r.key for r in kept] == ["a-word2", "b-word0", "b-word1"]
    taken = chosen_by_key(everything, only=withheld)
    assert {r.key for r in kept} | {r.key for r in taken} == {r.key for r in everything}
    assert not {r.key for r in kept} & {r.key for r in taken}


def test_overlap_finds_versions_of_withheld_takes(words: Path, tmp_path: Path) -> None:
    """A take at another speed shares the session with the original, but no audio."""
    pseudo_speakers(words, tmp_path / "train", [0.9], without=["a-word1"])
    pseudo_speakers(words, tmp_path / "test", [1.1], only=["a-word1"])
    pseudo_speakers(words, tmp_path / "leak", [1.1], only=["a-word1", "b-word0"])
    for name in ("train", "test", "leak"):
        assert main(["pack", str(tmp_path / name), str(tmp_path / f"{name}-shards"), "--no-speakers"]) == 0
    train = str(tmp_path / "train-shards")
    assert main(["overlap", train, str(tmp_path / "test-shards"), "--allow", "speaker"]) == 0
    assert main(["overlap", train, str(tmp_path / "test-shards")]) == 1  # the voice is heard in training
    assert main(["overlap", train, str(tmp_path / "leak-shards"), "--allow", "speaker,audio"]) == 1


def test_invalid_arguments(words: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"2\.5 must be between"):
        pseudo_speakers(words, tmp_path / "out", [2.5])
    with pytest.raises(ConfigError, match="and not 1"):
        pseudo_speakers(words, tmp_path / "out", [1.0])
    with pytest.raises(ConfigError, match="no key of the manifest matches 'c-"):
        pseudo_speakers(words, tmp_path / "out", only=["c-*"])
    with pytest.raises(ConfigError, match="leave no recording"):
        pseudo_speakers(words, tmp_path / "out", only=["a-*"], without=["*"])
    first, *rest = read_manifest(words)
    twofold = Recording(
        **{f: getattr(first, f) for f in ("key", "corpus", "split", "session", "language", "audio", "duration")},
        segments=(first.segments[0], rest[-1].segments[0]),
    )
    write_manifest(tmp_path / "two", [twofold], [], {})
    with pytest.raises(ManifestError, match="does not have exactly one known speaker"):
        pseudo_speakers(tmp_path / "two", tmp_path / "out", [0.9])
