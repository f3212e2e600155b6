import os
import re
import tarfile

import numpy as np
import pyarrow as pa
import pytest

from shards.dataset.dataset import Dataset, open_dataset
from shards.dataset.index import index_from_bytes, index_to_bytes
from shards.dataset.reader import locate, read_meta, read_sample
from shards.errors import ShardError, StorageError
from shards.sound.audio import decode
from shards.storage.s3 import S3Storage
from tests.support.damage import Damage
from tests.support.datasets import make_dataset
from tests.support.s3 import fake_s3


@pytest.fixture
def dataset(tmp_path):
    return make_dataset(tmp_path / "d", samples=8, samples_per_shard=4)


def test_samples_are_read_as_packed(dataset):
    for shard in range(2):
        for row, entry in enumerate(dataset.index(shard).to_pylist()):
            sample = read_sample(dataset, shard, row)
            sample.validate()
            assert sample.key == entry["key"]
            assert list(sample.speakers) == entry["speakers"]
            assert len(decode(sample.audio)) == sample.num_samples == entry["num_samples"]
            assert sum(len(s.text) for s in sample.segments) == entry["num_chars"]


def test_audio_is_decoded_out_of_the_bytes_that_were_read(dataset, monkeypatch):
    sample, place = read_sample(dataset, 1, 2), locate(dataset, 1, 2)
    read, given = place.read(dataset.storage), []
    monkeypatch.setattr("shards.dataset.reader.decode", lambda data, length: given.append(data) or decode(data, length))
    assert place.parse(read, audio=False).audio == b""
    assert np.array_equal(place.decode(read), decode(sample.audio))
    assert given[0] is read
    place.offset -= 3  # the audio is not the first of what was read
    assert np.array_equal(place.decode(b"abc" + read), decode(sample.audio))


def test_meta_of_a_shard(dataset):
    metas = read_meta(dataset, 1)
    assert [m["key"] for m in metas] == dataset.index(1)["key"].to_pylist()
    assert [m["num_samples"] for m in metas] == dataset.index(1)["num_samples"].to_pylist()
    assert [s["text"] for s in metas[2]["segments"]] == [s.text for s in read_sample(dataset, 1, 2).segments]


LOST = ["cut_at_member_boundary", "cut_between_members_of_a_sample", "cut_in_header", "cut_in_payload"]
SHORTER = ["cut_at_member_boundary", "cut_in_header", "flip_header_byte"]


def error_of(dataset, shard, row):
    with pytest.raises(ShardError) as caught:
        read_sample(dataset, shard, row)
    return str(caught.value)


@pytest.mark.parametrize("how", [*LOST, "flip_payload_byte", "flip_json_byte"])
def test_damage_names_shard_key_and_offset(dataset, how):
    damage = Damage(dataset, 1, 2)
    before = read_sample(dataset, 1, 1)
    getattr(damage, how)()
    message = error_of(dataset, 1, 2)
    assert "synthetic-000001.tar" in message
    assert damage.key in message
    offset = int(re.search(r"at offset (\d+)", message)[1])
    assert offset in (damage.flac, damage.json)
    assert read_sample(dataset, 1, 1).audio == before.audio  # samples before the damage are intact
    if how in LOST:
        error_of(dataset, 1, 3)
    if how in LOST or how == "flip_json_byte":
        with pytest.raises(ShardError, match=damage.key):
            read_meta(dataset, 1)


@pytest.mark.parametrize("how", SHORTER)
def test_tarfile_reads_the_same_damage_as_a_shorter_shard(dataset, how):
    """The reason not to trust tar headers: no error, only fewer samples."""
    damage = Damage(dataset, 1, 2)
    getattr(damage, how)()
    with tarfile.open(damage.tar, "r:") as tar:
        assert len(tar.getnames()) == 6  # of 12


def test_damaged_header_loses_no_sample(dataset):
    """Headers are not read: the samples are intact by their crc32. `verify` reports the header."""
    before = [read_sample(dataset, 1, row).members() for row in range(4)]
    Damage(dataset, 1, 2).flip_header_byte()
    assert [read_sample(dataset, 1, row).members() for row in range(4)] == before


def test_swapped_tars_are_rejected(dataset):
    Damage(dataset, 0, 0).swap_with(1)
    for shard in range(2):
        for row in range(4):
            key = dataset.index(shard)["key"][row].as_py()
            assert key in error_of(dataset, shard, row)


def test_a_local_tar_is_opened_once_and_a_sample_is_one_read(dataset, monkeypatch):
    called, plain = [], (os.open, os.pread)

    def counted(name, function):
        return lambda *given, **more: called.append((name, str(given[0]))) or function(*given, **more)

    dataset.index(0)
    for name, function in zip(("open", "pread"), plain, strict=True):
        monkeypatch.setattr(os, name, counted(name, function))
    for row in range(4):
        read_sample(dataset, 0, row)
    assert [path for name, path in called if name == "open"] == [f"{dataset.url}/{dataset.shards[0].tar}"]
    assert sum(name == "pread" for name, _ in called) == 4


def test_missing_tar_is_a_storage_error_not_a_sample_error(dataset):
    Damage(dataset, 0, 0).tar.unlink()
    with pytest.raises(StorageError, match=r"synthetic-000000\.tar"):
        read_sample(dataset, 0, 0)


@pytest.mark.parametrize(
    ("column", "value"),
    [("flac_offset", -5), ("flac_offset", 10**15), ("json_length", 10**15), ("npy_length", 3), ("flac_crc32", 1)],
)
def test_index_that_disagrees_with_the_tar_is_rejected(dataset, column, value):
    path = dataset.shards[0].index
    table, record = index_from_bytes(dataset.storage.read(path), path)
    rows = table.to_pylist()
    rows[1][column] = value
    edited = pa.Table.from_pylist(rows, schema=table.schema)
    dataset.storage.write_atomic(path, index_to_bytes(edited, record))
    message = error_of(open_dataset(dataset.url), 0, 1)
    assert "synthetic-000000.tar" in message
    assert "synthetic-00001" in message


def test_valid_json_that_is_not_a_sample_is_rejected(dataset, monkeypatch):
    monkeypatch.setattr("shards.sample.FORMAT_VERSION", 99)
    assert "version 1" in error_of(dataset, 0, 0)
    with pytest.raises(ShardError, match=r"synthetic-00000\.json.*version 1"):
        read_meta(dataset, 0)


def test_sample_on_s3_is_one_request(dataset, monkeypatch):
    with fake_s3() as server:
        for name, value in (("ENDPOINT_URL", server.endpoint), ("ACCESS_KEY_ID", "id"), ("SECRET_ACCESS_KEY", "s")):
            monkeypatch.setenv(f"AWS_{name}", value)
        for path in dataset.storage.list():
            server.objects[f"p/{path}"] = dataset.storage.read(path)
        remote = open_dataset("s3://bucket/p")
        assert isinstance(remote, Dataset)
        assert isinstance(remote.storage, S3Storage)
        remote.index(0)
        server.requests.clear()
        assert read_sample(remote, 0, 2).members() == read_sample(dataset, 0, 2).members()
        assert [method for method, _, _ in server.requests] == ["GET"]
        for gap, together, requests in ((2 << 20, 8 << 20, 1), (0, 8 << 20, 4), (2 << 20, 2000, 4)):
            server.requests.clear()
            assert read_meta(remote, 0, max_gap=gap, max_read=together) == read_meta(dataset, 0)
            assert len(server.requests) == requests
        tar = f"p/{remote.shards[0].tar}"
        server.objects[tar] = server.objects[tar][:700]
        assert "s3://bucket/p/shards/synthetic-000000.tar" in error_of(remote, 0, 0)
