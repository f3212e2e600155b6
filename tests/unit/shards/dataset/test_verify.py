"""The command that checks a dataset."""

import json
from dataclasses import replace

import numpy as np
import pytest

from shards.cli import main
from shards.dataset.dataset import open_dataset
from shards.dataset.reader import read_sample
from shards.dataset.verify import dataset_faults, shard_faults
from shards.dataset.writer import write_dataset_json, write_shard
from shards.storage.local import LocalStorage
from tests.support.damage import Damage
from tests.support.datasets import make_dataset


@pytest.fixture
def dataset(tmp_path):
    return make_dataset(tmp_path / "d", samples=8, samples_per_shard=4)


def verify(dataset, capsys, *options):
    code = main(["verify", str(dataset.url), *options])
    lines = capsys.readouterr().out.splitlines()
    summary = json.loads(lines[-1])
    assert summary["faults"] == len(lines) - 1
    assert code == (1 if summary["faults"] else 0)
    return lines[:-1]


def test_undamaged_dataset_has_no_faults(dataset, capsys):
    assert verify(dataset, capsys) == []


HOW = [
    "cut_at_member_boundary",
    "cut_between_members_of_a_sample",
    "cut_in_header",
    "cut_in_payload",
    "flip_header_byte",
    "flip_payload_byte",
    "flip_json_byte",
]


@pytest.mark.parametrize("quick", [(), ("--quick",)])
@pytest.mark.parametrize("how", HOW)
def test_damage_is_found(dataset, capsys, how, quick):
    damage = Damage(dataset, 1, 2)
    getattr(damage, how)()
    faults = verify(dataset, capsys, *quick)
    assert all("synthetic-000001" in f for f in faults)
    assert any("sha256" in f for f in faults)
    if how != "flip_header_byte":
        assert any(damage.key in f and "offset" in f for f in faults)
    if how.startswith("cut"):
        assert any("tar of" in f for f in faults)


def test_damaged_header_is_reported_with_its_offset(dataset):
    damage = Damage(dataset, 1, 2)
    damage.flip_header_byte()
    assert any(f"at offset {damage.flac} the index has {damage.key}.flac" in f for f in shard_faults(dataset, 1))


def test_swapped_and_missing_shards_are_reported(dataset, capsys):
    Damage(dataset, 0, 0).swap_with(1)
    faults = verify(dataset, capsys)
    assert sum("sha256 is" in f for f in faults) == 2
    Damage(dataset, 0, 0).tar.unlink()
    assert any("synthetic-000000.tar" in f and "No such file" in f for f in verify(dataset, capsys))


def repack(dataset, folder, change):
    """Write the first shard again with changed samples and valid checksums."""
    storage = LocalStorage(folder)
    samples = [read_sample(dataset, 0, row) for row in range(4)]
    shards = [write_shard(storage, "synthetic-000000", change(samples))]
    write_dataset_json(storage, "synthetic", shards, {})
    return open_dataset(folder)


def test_contradicting_content_is_reported(dataset, tmp_path):
    def empty_text(samples):
        s = samples[1]
        return [replace(s, segments=(replace(s.segments[0], text=" "), *s.segments[1:]))]

    def longer_than_said(samples):
        return [replace(samples[1], num_samples=samples[1].num_samples - 1)]

    def not_flac(samples):
        return [replace(samples[1], audio=b"RIFF")]

    def long_vectors(samples):
        return [samples[1].with_embeddings(samples[1].embeddings * np.float16(1.5))]

    for number, (change, words) in enumerate(
        [(empty_text, "no text"), (longer_than_said, "its json says"), (not_flac, "FLAC"), (long_vectors, "norm 1.5")]
    ):
        faults = list(shard_faults(repack(dataset, tmp_path / str(number), change), 0))
        assert len(faults) == 1
        assert words in faults[0]
        assert "synthetic-00001" in faults[0]


def test_faults_of_the_whole_dataset_are_reported(dataset, capsys):
    info = dataset.info | {"samples": 99, "shards": dataset.info["shards"] + dataset.info["shards"][:1]}
    dataset.storage.write_atomic("dataset.json", json.dumps(info).encode())
    vectors = np.load(dataset.storage.local_path("speakers.npy"))
    vectors[2] = np.nan
    vectors[3] = 0
    np.save(dataset.storage.local_path("speakers.npy"), vectors)
    faults = list(dataset_faults(open_dataset(dataset.url)))
    assert sum("says 99 samples" in f for f in faults) == 1
    assert sum(": duplicate key" in f for f in faults) == 4
    assert [f.split("row ")[1][0] for f in faults if "speakers.npy" in f] == ["2", "3"]
