"""An opened dataset."""

import pickle
from dataclasses import replace
from pathlib import Path

import pytest

from shards.dataset.dataset import open_dataset
from shards.dataset.index import INDEX_SCHEMA, index_from_bytes, index_to_bytes
from shards.errors import ShardError, StorageError
from tests.support.datasets import make_dataset


@pytest.fixture
def dataset(tmp_path):
    return make_dataset(tmp_path / "d", samples=11, samples_per_shard=4)


def test_dataset_totals(dataset):
    assert [s.samples for s in dataset.shards] == [4, 4, 3]
    assert dataset.samples == dataset.info["samples"] == 11
    num_samples = sum(sum(dataset.index(i)["num_samples"].to_pylist()) for i in range(3))
    assert dataset.hours == pytest.approx(num_samples / 16_000 / 3600)


def test_index_rows(dataset):
    table = dataset.index(2)
    assert table.schema.equals(INDEX_SCHEMA)
    assert table["key"].to_pylist() == ["synthetic-00008", "synthetic-00009", "synthetic-00010"]
    assert table["npy_offset"].null_count == 0


def test_dataset_without_embeddings_and_bank(tmp_path):
    dataset = make_dataset(tmp_path, samples=2, dim=0)
    assert dataset.index(0)["npy_offset"].null_count == 2
    assert dataset.speakers is None


def test_speaker_bank_is_opened(dataset):
    assert dataset.speakers is not None
    assert dataset.speakers.dim == 192
    assert dataset.speakers is dataset.speakers


def test_fingerprint_depends_on_content_not_on_location(tmp_path):
    one = make_dataset(tmp_path / "1", samples=3)
    assert make_dataset(tmp_path / "2", samples=3).fingerprint() == one.fingerprint()
    assert make_dataset(tmp_path / "3", samples=3, seed=1).fingerprint() != one.fingerprint()


def test_tables_are_cached_and_not_pickled(dataset):
    assert dataset.index(1) is dataset.index(1)
    assert dataset.speakers is not None
    assert len(pickle.dumps(dataset)) < 3_000
    assert pickle.loads(pickle.dumps(dataset)).index(1).equals(dataset.index(1))


def test_missing_dataset_is_a_storage_error(tmp_path):
    with pytest.raises(StorageError, match=r"dataset\.json"):
        open_dataset(tmp_path)


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"format_version": 99}'])
def test_damaged_dataset_json_is_a_shard_error(tmp_path, content):
    (tmp_path / "dataset.json").write_text(content)
    with pytest.raises(ShardError, match=r"dataset\.json"):
        open_dataset(tmp_path)


def edit(dataset, shard, change):
    """Replace a shard's index by an edited one."""
    path = dataset.shards[shard].index
    table, record = index_from_bytes(dataset.storage.read(path), path)
    dataset.storage.write_atomic(path, index_to_bytes(*change(table, record)))
    return open_dataset(dataset.url)


def test_index_with_missing_rows_is_rejected(dataset):
    dataset = edit(dataset, 1, lambda table, record: (table.slice(1), record))
    with pytest.raises(ShardError, match=r"synthetic-000001.*3 rows.*4 samples"):
        dataset.index(1)


def test_index_of_another_tar_is_rejected(dataset):
    dataset = edit(dataset, 1, lambda t, record: (t, replace(record, info=replace(record.info, sha256="0" * 64))))
    with pytest.raises(ShardError, match=r"synthetic-000001.*swapped"):
        dataset.index(1)


def test_swapped_indexes_are_rejected(dataset):
    a, b = (dataset.shards[i].index for i in (0, 1))
    first, second = dataset.storage.read(a), dataset.storage.read(b)
    dataset.storage.write_atomic(a, second)
    dataset.storage.write_atomic(b, first)
    for shard in (0, 1):
        with pytest.raises(ShardError, match="swapped"):
            open_dataset(dataset.url).index(shard)


def test_missing_folder_is_an_error_that_says_what_to_name(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match=r"tests/dataset\.json: No such file .*; name a folder that .* pack wrote"):
        open_dataset(tmp_path / "tests")
