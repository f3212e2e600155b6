import json
import re
from dataclasses import replace

import pytest
import soundfile

from shards.cli import main
from shards.dataset.dataset import open_dataset
from shards.dataset.overlap import overlap
from shards.manifests.manifest import SpeakerInfo, read_manifest, write_manifest
from tests.support.extractors import add_extractor
from tests.support.manifests import make_manifest
from tests.support.speech import PitchExtractor


@pytest.fixture
def train(tmp_path):
    make_manifest(tmp_path / "train", 12)
    return packed(tmp_path, "train")


def packed(root, name, *options):
    command = ["pack", str(root / name), str(root / f"{name}-shards"), "--samples-per-shard", "5", *options]
    assert main([*command, "--extractor", "pitch", "--max-self-enrolled", "1"]) == 0
    return open_dataset(root / f"{name}-shards")


@pytest.fixture(autouse=True)
def extractor(monkeypatch, tmp_path):
    add_extractor(monkeypatch, tmp_path / "site", "pitch", PitchExtractor())


def other(root, changes, *, person=lambda s: f"other-{s}"):
    """A test set made from the training manifest: other keys, and `changes` to each recording."""
    records = []
    for r in read_manifest(root / "train"):
        segments = tuple(replace(s, speaker=f"new:{s.speaker[-2:]}") for s in r.segments)
        made = replace(r, key=f"test-{r.key}", session=f"new-{r.session}", segments=segments, corpus="new")
        records += [changes(r, made)] if changes(r, made) else []
    names = {s.speaker for r in records for s in r.segments}
    write_manifest(root / "test", records, [SpeakerInfo(s, "new", "zh", None, person(s)) for s in sorted(names)], {})
    return packed(root, "test")


def louder(r, made, root):
    """Other audio of the same length."""
    wave = soundfile.read(r.audio)[0]
    path = root / f"{made.key}.wav"
    soundfile.write(path, wave * 0.5, soundfile.info(r.audio).samplerate, subtype="PCM_16")
    return replace(made, audio=str(path))


def counts(found):
    return {kind: (leak.samples, len(leak.of_b)) for kind, leak in found.items()}


def test_disjoint_datasets_have_no_overlap(train, tmp_path, capsys):
    test = other(tmp_path, lambda r, made: louder(r, made, tmp_path))
    assert counts(overlap(train, test)) == {"audio": (0, 0), "session": (0, 0), "speaker": (0, 0)}
    assert main(["overlap", train.url, test.url]) == 0


def test_same_audio_under_other_names_and_encodings_is_found(train, tmp_path, capsys):
    """Three of twelve recordings; one was copied into the training shard and is encoded again here."""

    def three(r, made):
        if r.key[-3:] not in ("000", "001", "003"):
            return None
        if r.key[-3:] != "000":
            return made
        wave, rate = soundfile.read(r.audio, dtype="int16")
        soundfile.write(tmp_path / "again.wav", wave, rate, subtype="PCM_16")
        return replace(made, audio=str(tmp_path / "again.wav"))

    test = other(tmp_path, three)
    found = overlap(train, test)
    assert counts(found) == {"audio": (3, 3), "session": (0, 0), "speaker": (0, 0)}
    assert sorted(found["audio"].examples)[0] == "audio: synthetic-000 of train is test-synthetic-000 of test"
    capsys.readouterr()
    assert main(["overlap", train.url, test.url]) == 1
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["leaks"] == ["audio"]
    assert main(["overlap", train.url, test.url, "--allow", "audio"]) == 0


def test_every_leaking_sample_of_the_test_set_is_counted(train, tmp_path, capsys):
    """Nine test samples of one audio, in one session, of one person under two ids."""
    first = next(iter(read_manifest(tmp_path / "train")))

    def copies(r, made):
        number = int(r.key[-3:])
        segments = tuple(replace(s, speaker=f"new:T{number % 2}") for s in first.segments)
        return replace(first, key=made.key, corpus="new", segments=segments) if number < 9 else None

    test = other(tmp_path, copies, person=lambda s: "person-0")
    found = overlap(train, test)
    assert found["audio"].counts() == {"samples_of_a": 1, "samples_of_b": 9, "of_b": 9}
    (example,) = found["audio"].examples
    assert re.fullmatch(r"audio: synthetic-000 of train is test-synthetic-00\d \(and 8 more\) of test", example)
    assert found["speaker"].counts() == {"samples_of_a": 5, "samples_of_b": 9, "of_b": 2}
    same = overlap(test, test)
    assert same["session"].counts() == {"samples_of_a": 9, "samples_of_b": 9, "of_b": 1}
    capsys.readouterr()
    assert main(["overlap", train.url, test.url]) == 1
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["audio"]["samples_of_b"] == 9


def test_shared_sessions_and_speakers_are_found(train, tmp_path):
    def change(r, made):
        made = louder(r, made, tmp_path)
        if r.key == "synthetic-004":  # session-1, speakers 4 and 0
            return replace(made, session="session-1", corpus="synthetic", segments=r.segments)
        return replace(made, session="session-0") if r.key == "synthetic-000" else None  # of another corpus

    test = other(tmp_path, change)
    found = overlap(train, test)
    assert found["session"].of_b == {"synthetic/session-1"}
    assert found["session"].samples == 3
    assert (found["session"].samples_of_b, found["speaker"].samples_of_b) == (1, 1)
    assert found["speaker"].of_b == {"synthetic:S4", "synthetic:S0"}
    assert found["audio"].samples == 0


def test_other_id_of_the_same_person_is_found(train, tmp_path):
    test = other(tmp_path, lambda r, made: louder(r, made, tmp_path), person=lambda s: f"person-{s[-1]}")
    found = overlap(train, test)
    assert found["speaker"].of_b == {f"new:S{i}" for i in range(5)}
    assert found["speaker"].samples == 12


def test_flac_without_a_hash_is_decoded(train, tmp_path):
    test = other(tmp_path, lambda r, made: made if r.key.endswith("000") else None)
    tar = tmp_path / "train-shards" / "shards"
    for path in tar.glob("*.tar"):
        data = path.read_bytes()
        at = data.find(b"fLaC")
        while at >= 0:
            data = data[: at + 26] + bytes(16) + data[at + 42 :]
            at = data.find(b"fLaC", at + 4)
        path.write_bytes(data)
    assert overlap(train, test)["audio"].samples == 1
