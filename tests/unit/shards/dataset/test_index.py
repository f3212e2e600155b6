"""The index of a shard."""

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from shards.dataset.dataset import open_dataset
from shards.dataset.index import index_from_bytes, index_to_bytes
from shards.errors import ShardError
from tests.support.datasets import make_dataset


@pytest.fixture
def dataset(tmp_path):
    return make_dataset(tmp_path / "d", samples=11, samples_per_shard=4)


def test_damaged_and_foreign_parquet_is_rejected(dataset, tmp_path):
    path = dataset.shards[0].index
    whole = dataset.storage.read(path)
    other = pa.BufferOutputStream()
    pq.write_table(pa.table({"key": ["x"]}), other)
    for content in (b"", whole[:-10], whole[:100], other.getvalue().to_pybytes()):
        dataset.storage.write_atomic(path, content)
        with pytest.raises(ShardError, match=r"synthetic-000000\.parquet"):
            open_dataset(dataset.url).index(0)


def test_index_of_another_format_version_is_rejected(dataset, monkeypatch):
    data = dataset.storage.read(dataset.shards[0].index)
    monkeypatch.setattr("shards.dataset.index.FORMAT_VERSION", 99)
    with pytest.raises(ShardError, match="format version"):
        index_from_bytes(data, "x")


def test_bytes_are_a_function_of_the_content(dataset):
    path = dataset.shards[0].index
    data = dataset.storage.read(path)
    assert index_to_bytes(*index_from_bytes(data, path)) == data
    assert json.loads(dataset.storage.read("dataset.json")) == dataset.info
