"""The command that checks a dataset."""

import json
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from shards.cli import main
from shards.dataset.dataset import open_dataset
from shards.dataset.index import index_from_bytes, index_to_bytes
from shards.dataset.reader import read_sample
from shards.dataset.verify import dataset_faults, shard_faults
from shards.dataset.writer import write_dataset_json, write_shard
from shards.errors import ShardError
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


def described(dataset, capsys, change):
    """Faults after a change of ``dataset.json``."""
    info = json.loads(dataset.storage.read("dataset.json"))
    change(info)
    dataset.storage.write_atomic("dataset.json", json.dumps(info).encode())
    return verify(dataset, capsys, "--quick")


@pytest.mark.parametrize(
    ("field", "value"),
    [("samples", 9), ("hours", 0.5), ("hours", None), ("sample_rate", 8000), ("sample_rate", "16000")],
)
def test_every_field_of_the_description_is_compared(dataset, capsys, field, value):
    (fault,) = described(dataset, capsys, lambda info: info.update({field: value}))
    assert f"dataset.json: {field} is {value!r}, the shards have " in fault


@pytest.mark.parametrize(
    ("field", "value"),
    [("name", "synthetic-000001"), ("samples", 3), ("seconds", 1.5), ("bytes", 99), ("sha256", "0" * 64)],
)
def test_every_field_of_a_shard_s_row_is_compared_and_named(dataset, capsys, field, value):
    faults = described(dataset, capsys, lambda info: info["shards"][0].update({field: value}))
    there = getattr(dataset.shards[1 if field == "name" else 0], field)
    other = "sha256" if field == "name" else field
    assert any(f"{other} is {getattr(dataset.shards[int(field == 'name')], other)!r} in the index" in f for f in faults)
    assert any("in dataset.json" in f and "synthetic-00000" in f for f in faults), there


def test_provenance_is_compared(dataset, capsys):
    change = {"extractor_dim": 5, "self_enrolled": 7}
    faults = described(dataset, capsys, lambda info: info["provenance"].update(change))
    assert sum("speaker vectors of 192 dimensions, dataset.json says 5" in f for f in faults) == dataset.samples
    assert sum("provenance.self_enrolled is 7, the shards have 0" in f for f in faults) == 1
    assert len(faults) == dataset.samples + 1


@pytest.mark.parametrize("field", ["seed", "extractor_sha256"])
def test_provenance_agrees_with_its_configuration(dataset, capsys, field):
    def describe(value):
        return lambda info: info["provenance"].update({field: "a", "config": {"name": "synthetic", field: value}})

    assert described(dataset, capsys, describe("a")) == []
    (fault,) = described(dataset, capsys, describe("b"))
    assert f"dataset.json: provenance.{field} is 'a', its config has 'b'" in fault


def test_row_that_was_dropped_is_reported(dataset, capsys):
    def drop(info):
        del info["shards"][1]
        info["samples"], info["hours"] = 4, round(info["shards"][0]["seconds"] / 3600, 6)

    (fault,) = described(dataset, capsys, drop)
    assert "dataset.json: no row for shard synthetic-000001, whose index has 4 samples; run pack again" in fault


def test_part_of_which_nothing_was_packed_needs_no_row(dataset, capsys):
    write_shard(dataset.storage, "synthetic-000002", [])
    assert verify(dataset, capsys) == []


@pytest.mark.parametrize("value", [{}, [], None, "x", {"name": "x"}, {"samples": "4"}, {"seconds": -1}, {"more": 1}])
def test_row_of_another_type_is_one_error(dataset, capsys, value):
    info = json.loads(dataset.storage.read("dataset.json"))
    info["shards"][1] = info["shards"][1] | value if value and isinstance(value, dict) else value
    info["shards"][1] = {"name": "x"} if value == {"name": "x"} else info["shards"][1]
    dataset.storage.write_atomic("dataset.json", json.dumps(info).encode())
    with pytest.raises(ShardError, match=r"dataset\.json: not a dataset description"):
        open_dataset(dataset.url)


def test_rows_of_an_index_add_up_to_its_seconds(dataset, capsys):
    path = dataset.shards[0].index
    table, record = index_from_bytes(dataset.storage.read(path), path)
    rows = table.to_pylist()
    rows[0]["num_samples"] += 1600
    dataset.storage.write_atomic(path, index_to_bytes(pa.Table.from_pylist(rows, schema=table.schema), record))
    faults = verify(dataset, capsys)
    assert any(f"{path}: seconds is {dataset.shards[0].seconds!r}, its rows sum to" in f for f in faults)


def test_exchanged_speakers_of_a_row_are_reported(dataset, capsys):
    path = dataset.shards[0].index
    table, record = index_from_bytes(dataset.storage.read(path), path)
    rows = table.to_pylist()
    row = next(r for r in rows if len(r["speakers"]) > 1)
    row["speakers"] = row["speakers"][::-1]
    dataset.storage.write_atomic(path, index_to_bytes(pa.Table.from_pylist(rows, schema=table.schema), record))
    (fault,) = verify(dataset, capsys)
    assert f"synthetic-000000.tar: {row['key']}" in fault
    assert f"the index has speakers {tuple(row['speakers'])!r}, the json" in fault


def test_faults_of_the_whole_dataset_are_reported(dataset, capsys):
    info = dataset.info | {"samples": 99, "shards": dataset.info["shards"] + dataset.info["shards"][:1]}
    dataset.storage.write_atomic("dataset.json", json.dumps(info).encode())
    vectors = np.load(dataset.storage.local_path("speakers.npy"))
    vectors[2] = np.nan
    vectors[3] = 0
    np.save(dataset.storage.local_path("speakers.npy"), vectors)
    table = dataset.storage.local_path("speakers.parquet")
    pq.write_table(pq.read_table(table).replace_schema_metadata({}), table)  # of a version without hashes
    faults = list(dataset_faults(open_dataset(dataset.url)))
    assert sum("dataset.json: samples is 99, the shards have 12" in f for f in faults) == 1
    assert sum(": duplicate key" in f for f in faults) == 4
    assert [f.split("row ")[1][0] for f in faults if "speakers.npy" in f] == ["2", "3"]
