import json
import re
import tarfile

import numpy as np
import pytest
import soundfile

import shards.packing.pack
import shards.storage.local
from shards.cli import main
from shards.dataset.dataset import open_dataset
from shards.dataset.index import index_from_bytes
from shards.dataset.reader import read_sample
from shards.errors import StorageError
from shards.manifests.manifest import RECORDINGS, SPEAKERS
from shards.packing.packer import Packer
from shards.storage.local import LocalStorage
from shards.workers import run_jobs
from tests.support.manifests import make_manifest


@pytest.fixture
def manifest(tmp_path):
    make_manifest(tmp_path / "m", 13)
    return tmp_path / "m"


def pack(manifest, out, *options, code=0):
    command = ["pack", str(manifest), str(out), "--samples-per-shard", "4", "--no-speakers", *options]
    assert main(command) == code


def content(folder):
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def edit(manifest, change):
    lines = [json.loads(line) for line in (manifest / RECORDINGS).read_text().splitlines()]
    lines = change(lines) or lines
    (manifest / RECORDINGS).write_text("".join(json.dumps(line) + "\n" for line in lines))


def test_every_recording_is_packed_once_in_random_order(manifest, tmp_path, capsys):
    pack(manifest, tmp_path / "o", "--name", "train")
    summary = json.loads(capsys.readouterr().out)
    dataset = open_dataset(tmp_path / "o")
    assert [s.name for s in dataset.shards] == [f"train-{i:06d}" for i in range(4)]
    keys = [k for i in range(4) for k in dataset.index(i)["key"].to_pylist()]
    assert sorted(keys) == [f"synthetic-{i:03d}" for i in range(13)]
    assert keys != sorted(keys)
    assert (summary["samples"], summary["shards"], summary["merged"]) == (13, 4, True)
    assert summary["hours"] == pytest.approx(dataset.hours, abs=1e-4)
    assert main(["verify", str(tmp_path / "o")]) == 0


def test_samples_agree_with_the_manifest(manifest, tmp_path):
    recordings = {r.key: r for r in make_manifest(tmp_path / "m", 13)}
    pack(manifest, tmp_path / "o")
    dataset = open_dataset(tmp_path / "o")
    for shard in range(len(dataset.shards)):
        for row in range(dataset.shards[shard].samples):
            sample = read_sample(dataset, shard, row)
            recording = recordings[sample.key]
            number = int(sample.key[-3:])
            assert sample.duration == pytest.approx(0.6 + 0.05 * number, abs=0.001)
            assert [s.text for s in sample.segments] == ["第一段", "第二段"]
            assert (sample.session, sample.language, sample.start) == (
                recording.session,
                recording.language,
                recording.start,
            )
            if number % 4 == 0:
                assert sample.audio == (manifest / f"audio-{number:03d}.flac").read_bytes()


def test_same_bytes_for_any_number_of_workers_and_tasks(manifest, tmp_path):
    pack(manifest, tmp_path / "one")
    pack(manifest, tmp_path / "two", "--workers", "2")
    for task in (2, 0, 1):
        pack(manifest, tmp_path / "tasks", "--part", f"{task}/3")
    assert content(tmp_path / "one") == content(tmp_path / "two") == content(tmp_path / "tasks")
    pack(manifest, tmp_path / "other", "--seed", "2")
    assert content(tmp_path / "other") != content(tmp_path / "one")


def test_more_workers_than_shards_are_not_started(manifest, tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(
        shards.packing.pack,
        "run_jobs",
        lambda setup, places, jobs: (asked.append(places), run_jobs(setup, places, jobs))[1],
    )
    pack(manifest, tmp_path / "o", "--samples-per-shard", "100", "--workers", "3")
    assert asked == [["core"]]


def test_dataset_is_merged_after_its_last_part(manifest, tmp_path, capsys):
    pack(manifest, tmp_path / "o", "--part", "0/2")
    assert json.loads(capsys.readouterr().out)["merged"] is False
    assert not (tmp_path / "o" / "dataset.json").exists()
    pack(manifest, tmp_path / "o", "--part", "1/2")
    assert json.loads(capsys.readouterr().out)["merged"] is True
    assert open_dataset(tmp_path / "o").samples == 13


def test_slurm_array_task_packs_its_part(manifest, tmp_path, monkeypatch, capsys):
    for name, value in (("MIN", 5), ("MAX", 6), ("COUNT", 2), ("ID", 6)):
        monkeypatch.setenv(f"SLURM_ARRAY_TASK_{name}", str(value))
    pack(manifest, tmp_path / "o", "--dry-run")
    assert json.loads(capsys.readouterr().out)["this_task"] == [2, 4]
    monkeypatch.setenv("SLURM_ARRAY_TASK_COUNT", "1")
    pack(manifest, tmp_path / "o", "--dry-run", code=1)


def test_rerun_changes_no_file(manifest, tmp_path, capsys):
    pack(manifest, tmp_path / "o")
    times = {p: p.stat().st_mtime_ns for p in (tmp_path / "o").rglob("*")}
    capsys.readouterr()
    pack(manifest, tmp_path / "o")
    summary = json.loads(capsys.readouterr().out)
    assert (summary["skipped"], summary["samples"]) == (4, 13)
    assert {p: p.stat().st_mtime_ns for p in (tmp_path / "o").rglob("*")} == times


@pytest.mark.parametrize("lost", ["m-000001.tar", "m-000001.parquet"])
def test_part_with_a_missing_file_is_packed_again(manifest, tmp_path, capsys, lost):
    pack(manifest, tmp_path / "o")
    before = content(tmp_path / "o")
    (tmp_path / "o" / "shards" / lost).unlink()
    capsys.readouterr()
    pack(manifest, tmp_path / "o")
    assert json.loads(capsys.readouterr().out)["skipped"] == 3
    assert content(tmp_path / "o") == before


def test_truncated_tar_is_packed_again(manifest, tmp_path):
    pack(manifest, tmp_path / "o")
    before = content(tmp_path / "o")
    tar = tmp_path / "o" / "shards" / "m-000002.tar"
    tar.write_bytes(tar.read_bytes()[:-512])
    pack(manifest, tmp_path / "o")
    assert content(tmp_path / "o") == before


@pytest.mark.parametrize("after", [3, 6, 13])
def test_killed_pack_leaves_only_finished_shards_and_resumes_to_the_same_bytes(manifest, tmp_path, monkeypatch, after):
    pack(manifest, tmp_path / "whole")
    import shards.packing.packer

    real, calls = shards.packing.packer.make_sample, iter(range(100))

    def killed(recording, enroller, **options):
        if next(calls) == after - 1:
            raise KeyboardInterrupt
        return real(recording, enroller, **options)

    monkeypatch.setattr("shards.packing.packer.make_sample", killed)
    pack(manifest, tmp_path / "o", code=130)
    left = content(tmp_path / "o")
    whole = content(tmp_path / "whole")
    assert "dataset.json" not in left
    assert left == {name: whole[name] for name in left}
    monkeypatch.undo()
    pack(manifest, tmp_path / "o")
    assert content(tmp_path / "o") == whole


def test_kill_before_index_or_dataset_json(manifest, tmp_path, monkeypatch):
    pack(manifest, tmp_path / "whole")
    real = shards.storage.local.atomic_file
    for victim in ("m-000002.parquet", "quarantine.jsonl", "dataset.json"):

        def killed(path, victim=victim, **options):
            if path.name == victim:
                raise KeyboardInterrupt
            return real(path, **options)

        monkeypatch.setattr("shards.storage.local.atomic_file", killed)
        pack(manifest, tmp_path / "o", code=130)
        assert not (tmp_path / "o" / "dataset.json").exists()
        monkeypatch.undo()
    pack(manifest, tmp_path / "o")
    assert content(tmp_path / "o") == content(tmp_path / "whole")


def test_other_configuration_does_not_overwrite(manifest, tmp_path, capsys):
    pack(manifest, tmp_path / "o", "--name", "x")
    before = content(tmp_path / "o")
    pack(manifest, tmp_path / "o", "--name", "x", "--seed", "9", code=1)
    said = capsys.readouterr().err
    assert "another manifest, seed or configuration" in said
    assert "(the seed was 1, now it is 9)" in said
    edit(manifest, lambda lines: lines[0].update(language="en"))
    pack(manifest, tmp_path / "o", "--name", "x", code=1)
    assert content(tmp_path / "o") == before


def test_other_manifest_does_not_replace_a_dataset(manifest, tmp_path, capsys):
    """Its shards would have other names, and dataset.json would list only them."""
    pack(manifest, tmp_path / "o")
    before = content(tmp_path / "o")
    make_manifest(tmp_path / "n", 3)
    pack(tmp_path / "n", tmp_path / "o", code=1)
    assert "holds the dataset m, packed from another manifest, seed or configuration" in capsys.readouterr().err
    assert content(tmp_path / "o") == before


def test_an_interrupted_dataset_says_what_differs(manifest, tmp_path, capsys):
    """Its shards hold only a hash of their inputs."""
    pack(manifest, tmp_path / "o", "--part", "0/2", "--samples-per-shard", "4")
    pack(manifest, tmp_path / "o", "--samples-per-shard", "4", "--seed", "9", code=1)
    assert "(the seed was 1, now it is 9)" in capsys.readouterr().err
    pack(manifest, tmp_path / "o", "--samples-per-shard", "3", code=1)
    said = capsys.readouterr().err
    assert re.search(r"\(the number of shards \(--samples-per-shard, .*\) was \d+, now it is \d+\)", said), said
    edit(manifest, lambda lines: lines[0].update(language="en"))
    pack(manifest, tmp_path / "o", "--samples-per-shard", "4", code=1)
    assert "one of these: the manifest, " in capsys.readouterr().err


def test_shards_of_an_earlier_version_are_not_extended(manifest, tmp_path, monkeypatch, capsys):
    """The same inputs gave other bytes then."""
    monkeypatch.setattr("shards.packing.packer.PACKING", 1)
    pack(manifest, tmp_path / "o", "--part", "0/2")
    monkeypatch.undo()
    pack(manifest, tmp_path / "o", code=1)
    assert "by another version of this program" in capsys.readouterr().err


def test_flac_of_the_length_in_the_manifest_is_copied(manifest, tmp_path):
    wave = soundfile.read(manifest / "audio-000.flac")[0]
    soundfile.write(manifest / "audio-000.flac", wave, 16_000, subtype="PCM_16", compression_level=0.0)
    edit(manifest, lambda rows: [r | {"duration": 0.6} if r["key"] == "synthetic-000" else r for r in rows])
    pack(manifest, tmp_path / "o")
    tars = b"".join(p.read_bytes() for p in sorted((tmp_path / "o").rglob("*.tar")))
    assert (manifest / "audio-000.flac").read_bytes() in tars


def bad_recordings(manifest):
    """Make the first six recordings unusable, each in another way."""
    soundfile.write(manifest / "many.wav", np.zeros((9000, 200)), 16_000)
    (manifest / "empty.wav").write_bytes(b"")
    cut = (manifest / "audio-000.flac").read_bytes()
    (manifest / "cut.flac").write_bytes(cut[: len(cut) // 2])

    def change(lines):
        lines[0]["audio"] = "cut.flac"
        lines[1]["audio"] = "missing.wav"
        lines[2]["audio"] = "many.wav"
        lines[3]["key"] = "with.dot"
        lines[4]["segments"][0]["end"] = 100.0
        lines[5] |= {"audio": "empty.wav", "channel": None}

    edit(manifest, change)


def test_bad_recordings_are_counted_and_listed(manifest, tmp_path, capsys):
    bad_recordings(manifest)
    pack(manifest, tmp_path / "o", "--max-bad-share", "0.5")
    assert json.loads(capsys.readouterr().out)["quarantined"] == 6
    assert open_dataset(tmp_path / "o").samples == 7
    listed = [json.loads(line) for line in (tmp_path / "o" / "quarantine.jsonl").read_text().splitlines()]
    reasons = {entry["key"]: entry["reason"] for entry in listed}
    words = ["cut.flac", "no such file", "200 channels", "contain a dot", "is outside 0", "empty.wav"]
    keys = ["synthetic-000", "synthetic-001", "synthetic-002", "with.dot", "synthetic-004", "synthetic-005"]
    for key, word in zip(keys, words, strict=True):
        assert word in reasons[key]
    assert {entry["file"] for entry in listed} >= {str(manifest / "missing.wav")}
    pack(manifest, tmp_path / "again", "--max-bad-share", "0.5", "--workers", "2")
    assert content(tmp_path / "again") == content(tmp_path / "o")


def test_too_many_bad_recordings_stop_the_run_and_keep_finished_shards(manifest, tmp_path, capsys):
    pack(manifest, tmp_path / "o", "--part", "0/4")
    index = (tmp_path / "o" / "shards" / "m-000000.parquet").read_bytes()
    packed = index_from_bytes(index, "x")[0]["key"].to_pylist()
    for audio in [a for a in sorted(manifest.glob("audio-*")) if f"synthetic-{a.stem[-3:]}" not in packed][:2]:
        audio.unlink()
    capsys.readouterr()
    pack(manifest, tmp_path / "o", code=1)
    assert "--max-bad-share" in capsys.readouterr().err
    assert (tmp_path / "o" / "shards" / "m-000000.tar").exists()
    assert not (tmp_path / "o" / "dataset.json").exists()
    pack(manifest, tmp_path / "o", "--max-bad-share", "0.2")
    assert open_dataset(tmp_path / "o").samples == 11
    assert (tmp_path / "o" / "shards" / "m-000000.parquet").read_bytes() == index


def test_manifest_without_usable_recordings_is_an_error(manifest, tmp_path, capsys):
    edit(manifest, lambda lines: [line | {"audio": "missing.wav"} for line in lines])
    pack(manifest, tmp_path / "o", "--max-bad-share", "1", code=1)
    assert "no recording could be packed" in capsys.readouterr().err


def test_full_disk_stops_the_run_with_a_reason(manifest, tmp_path, monkeypatch, capsys):
    def full(self, path, **_):
        raise StorageError(f"{path}: No space left on device")

    monkeypatch.setattr(LocalStorage, "create", full)
    pack(manifest, tmp_path / "o", code=1)
    assert "No space left" in capsys.readouterr().err


def test_dry_run_writes_nothing(manifest, tmp_path, capsys):
    pack(manifest, tmp_path / "o", "--dry-run")
    summary = json.loads(capsys.readouterr().out)
    assert (summary["recordings"], summary["shards"]) == (13, 4)
    assert not (tmp_path / "o").exists()


@pytest.mark.parametrize("options", [("--part", "2/2"), ("--part", "x"), ("--name", "a.b"), ("--bytes-per-shard", "0")])
def test_invalid_options_are_rejected(manifest, tmp_path, capsys, options):
    pack(manifest, tmp_path / "o", *options, code=1)
    assert options[0] in capsys.readouterr().err


def with_genders(manifest, genders):
    """Write the genders of speakers, by place, into the manifest; returns speaker → gender."""
    lines = [json.loads(line) for line in (manifest / SPEAKERS).read_text().splitlines()]
    for line, gender in zip(lines, genders, strict=False):
        line["gender"] = gender
    (manifest / SPEAKERS).write_text("".join(json.dumps(line) + "\n" for line in lines))
    return {line["speaker"]: line["gender"] for line in lines}


def metas(folder):
    found = {}
    for path in sorted(folder.rglob("*.tar")):
        with tarfile.open(path) as tar:
            found |= {m.name: json.load(tar.extractfile(m)) for m in tar if m.name.endswith(".json")}
    return found


def test_samples_have_the_genders_that_are_known(manifest, tmp_path):
    with_genders(manifest, [None] * 99)
    pack(manifest, tmp_path / "none", "--name", "x")
    assert not any("genders" in meta for meta in metas(tmp_path / "none").values())
    stated = with_genders(manifest, ["F", None, "male", "other"] + ["m"] * 99)
    pack(manifest, tmp_path / "some", "--name", "x")
    words = {"F": "female", "male": "male", "m": "male"}
    both = {True: 0, False: 0}
    for name, meta in metas(tmp_path / "some").items():
        expected = {s: words[stated[s]] for s in meta["speakers"] if stated.get(s) in words}
        assert meta.pop("genders", {}) == expected
        assert meta == metas(tmp_path / "none")[name]
        both[bool(expected)] += 1
    dataset = open_dataset(tmp_path / "some")
    sample = read_sample(dataset, 0, 0)
    assert sample.genders == {s: words[stated[s]] for s in sample.speakers if stated[s] in words}
    assert main(["verify", str(tmp_path / "some")]) == 0
    assert both[True] > 0


def test_changed_genders_are_other_inputs(manifest, tmp_path, capsys):
    with_genders(manifest, ["f"] * 99)
    pack(manifest, tmp_path / "o")
    pack(manifest, tmp_path / "o")
    with_genders(manifest, ["m"] * 99)
    capsys.readouterr()
    pack(manifest, tmp_path / "o", code=1)
    assert "packed from" in capsys.readouterr().err


def test_packer_is_pickled_without_resources(manifest, tmp_path):
    import pickle

    packer = Packer(manifest, str(tmp_path), "x", 1, "0", 2, None, None, (), (), ())
    _ = packer.storage
    assert "storage" not in pickle.loads(pickle.dumps(packer)).__dict__
