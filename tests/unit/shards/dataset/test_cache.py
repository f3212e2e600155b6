"""Shards cached on a node's disk: same bytes, shared by ranks, only complete copies, within the limit."""

from __future__ import annotations

import fcntl
import pickle

import pytest

from shards.dataset.cache import CachedStorage, cache_shards
from shards.dataset.dataset import open_dataset
from shards.dataset.reader import read_meta, read_sample
from tests.support.datasets import make_dataset
from tests.support.s3 import fake_s3


@pytest.fixture
def remote(tmp_path, monkeypatch):
    """A dataset on S3, its server, and the same dataset on disk."""
    local = make_dataset(tmp_path / "data", samples=16)
    with fake_s3() as server:
        for name, value in (("ENDPOINT_URL", server.endpoint), ("ACCESS_KEY_ID", "id"), ("SECRET_ACCESS_KEY", "s")):
            monkeypatch.setenv(f"AWS_{name}", value)
        for path in local.storage.list():
            server.objects[f"p/{path}"] = local.storage.read(path)
        yield open_dataset("s3://bucket/p"), server, local


def gets(server, dataset) -> int:
    """Requests for shards since the last call."""
    tars = sum(".tar" in path for method, path, _ in server.requests if method == "GET")
    server.requests.clear()
    return tars


def test_second_read_needs_no_request_and_gives_the_same_samples(remote, tmp_path):
    dataset, server, local = remote
    assert cache_shards(dataset, tmp_path / "cache", 1e9) == sum(s.bytes for s in dataset.shards)
    for _ in range(2):
        for shard in range(2):
            assert read_sample(dataset, shard, 3).members() == read_sample(local, shard, 3).members()
            dataset.storage.wait()
        first, server.requests[:] = gets(server, dataset), []
    assert first == 0
    other = pickle.loads(pickle.dumps(dataset))  # another process of the node
    assert read_sample(other, 1, 5).members() == read_sample(local, 1, 5).members()
    assert read_meta(other, 0) == read_meta(local, 0)
    assert gets(server, dataset) == 0


def test_large_and_local_datasets_are_not_cached(remote, tmp_path):
    dataset, _, local = remote
    assert cache_shards(dataset, tmp_path / "cache", sum(s.bytes for s in dataset.shards) - 1) == 0
    assert cache_shards(local, tmp_path / "cache", 1e9) == 0
    assert not isinstance(dataset.storage, CachedStorage)
    read_sample(dataset, 0, 0)
    assert not (tmp_path / "cache").exists()


def test_partial_copy_of_a_killed_process_is_copied_again(remote, tmp_path):
    dataset, _, local = remote
    cache_shards(dataset, tmp_path / "cache", 1e9)
    folder = dataset.storage.local.root
    half = folder / "shards" / f".{dataset.shards[0].name}.tar.tmp"
    half.parent.mkdir(parents=True)
    half.write_bytes(b"x" * 100_000)
    assert read_sample(dataset, 0, 1).members() == read_sample(local, 0, 1).members()
    dataset.storage.wait()
    assert (folder / dataset.shards[0].tar).read_bytes() == local.storage.read(local.shards[0].tar)
    assert not half.exists()


def test_shard_being_copied_by_another_rank_is_not_copied(remote, tmp_path):
    dataset, server, local = remote
    cache_shards(dataset, tmp_path / "cache", 1e9)
    path = dataset.storage.local.root / "shards" / f".{dataset.shards[0].name}.tar.tmp"
    path.parent.mkdir(parents=True)
    with path.open("wb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        for row in (0, 1):
            assert read_sample(dataset, 0, row).members() == read_sample(local, 0, row).members()
            dataset.storage.wait()
    assert dataset.storage.failure is None
    assert gets(server, dataset) == 2


def test_damaged_shard_is_not_cached_and_its_samples_are_still_reported(remote, tmp_path, caplog):
    dataset, server, local = remote
    cache_shards(dataset, tmp_path / "cache", 1e9)
    tar = f"p/{dataset.shards[0].tar}"
    data = bytearray(server.objects[tar])
    data[-2000] ^= 1  # after the samples that are read here
    server.objects[tar] = bytes(data)
    assert read_sample(dataset, 0, 0).members() == read_sample(local, 0, 0).members()
    dataset.storage.wait()
    assert not dataset.storage.local.exists(dataset.shards[0].tar)
    assert "sha256" in dataset.storage.failure
    assert "caches no more shards" in caplog.text


def test_full_disk_falls_back_to_the_remote_storage(remote, tmp_path, caplog):
    dataset, _, local = remote
    cache_shards(dataset, tmp_path / "cache", 1e9)
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / dataset.storage.local.root.name).write_text("a file where the folder should be")
    for row in (0, 1):
        assert read_sample(dataset, 0, row).members() == read_sample(local, 0, row).members()
        dataset.storage.wait()
    assert dataset.storage.failure
    assert caplog.text.count("caches no more shards") == 1
