import subprocess
import tarfile
import zlib
from dataclasses import replace

import numpy as np
import pytest

from shards.dataset.index import index_from_bytes
from shards.dataset.reader import read_sample
from shards.dataset.writer import ShardWriter, write_shard
from shards.errors import ManifestError, ShardError
from shards.storage.local import LocalStorage
from tests.support.datasets import make_dataset, make_sample

POOL = ("synthetic:A", "synthetic:B", "synthetic:C", "synthetic:D")


def samples(count, keys=None):
    rng = np.random.default_rng(3)
    vectors = np.eye(4, 8)
    made = [make_sample(i, rng, POOL, vectors, seconds=(0.2, 0.4)) for i in range(count)]
    return [replace(s, key=k) for s, k in zip(made, keys or [s.key for s in made], strict=True)]


def test_offsets_agree_with_tarfile_even_after_long_headers(tmp_path):
    keys = ["short", "k" * 200, "会议" * 40, "钥", "also-short"]
    info = write_shard(LocalStorage(tmp_path), "s-000000", samples(5, keys))
    table, _ = index_from_bytes((tmp_path / info.index).read_bytes(), "x")
    blob = (tmp_path / info.tar).read_bytes()
    with tarfile.open(tmp_path / info.tar) as tar:
        found = {m.name: m for m in tar}
    assert len(found) == 15
    for row in table.to_pylist():
        for member in ("flac", "json", "npy"):
            entry = found[f"{row['key']}.{member}"]
            offset, length = row[f"{member}_offset"], row[f"{member}_length"]
            assert (entry.offset_data, entry.size) == (offset, length)
            assert zlib.crc32(blob[offset : offset + length]) == row[f"{member}_crc32"]
            assert (entry.mtime, entry.uname, entry.mode) == (0, "speakerlm", 0o644)


@pytest.mark.parametrize("key", ["short", "k" * 98, "l" * 150, "会议-第一段", "会" * 60])
@pytest.mark.parametrize("count", [0, 1, 7])
def test_tar_has_the_bytes_of_webdataset(tmp_path, key, count):
    from webdataset import TarWriter

    made = samples(count, [f"{key}-{i}" for i in range(count)]) if count else []
    write_shard(LocalStorage(tmp_path), "s-000000", made)
    fields = {"user": "speakerlm", "group": "speakerlm", "mode": 0o644, "mtime": 0, "encoder": False}
    with (tmp_path / "other.tar").open("wb") as file, TarWriter(file, **fields) as tar:
        for sample in made:
            for member, data in sample.members().items():
                tar.write({"__key__": sample.key, member: data})
    assert (tmp_path / "shards/s-000000.tar").read_bytes() == (tmp_path / "other.tar").read_bytes()


def test_plain_webdataset_reads_the_shards(tmp_path):
    import webdataset

    dataset = make_dataset(tmp_path, samples=10, samples_per_shard=4)
    urls = [str(tmp_path / s.tar) for s in dataset.shards]
    read = list(webdataset.WebDataset(urls, shardshuffle=False))
    ours = [read_sample(dataset, shard, row) for shard in range(3) for row in range(dataset.shards[shard].samples)]
    assert [r["__key__"] for r in read] == [s.key for s in ours]
    for theirs, sample in zip(read, ours, strict=True):
        assert {k: theirs[k] for k in ("flac", "json", "npy")} == sample.members()


def test_plain_tar_reads_the_shards(tmp_path):
    dataset = make_dataset(tmp_path, samples=2)
    listed = subprocess.run(["tar", "tf", tmp_path / dataset.shards[0].tar], capture_output=True, text=True, check=True)
    assert listed.stdout.split() == [f"synthetic-0000{i}.{m}" for i in range(2) for m in ("flac", "json", "npy")]


def test_bytes_are_a_function_of_the_samples(tmp_path):
    infos = [write_shard(LocalStorage(tmp_path / n), "s-000000", samples(3)) for n in "ab"]
    assert infos[0] == infos[1]
    for path in (infos[0].tar, infos[0].index):
        assert (tmp_path / "a" / path).read_bytes() == (tmp_path / "b" / path).read_bytes()


def test_error_while_writing_leaves_no_file(tmp_path):
    def cut_off():
        yield samples(1)[0]
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_shard(LocalStorage(tmp_path), "s-000000", cut_off())
    assert [p for p in tmp_path.rglob("*") if p.is_file()] == []


def test_kill_between_tar_and_index_leaves_no_shard(tmp_path, monkeypatch):
    def killed(self, path, data, version):
        raise KeyboardInterrupt

    monkeypatch.setattr(LocalStorage, "commit", killed)
    with pytest.raises(KeyboardInterrupt):
        write_shard(LocalStorage(tmp_path), "s-000000", samples(1))
    assert [p.name for p in tmp_path.rglob("*.*")] == ["s-000000.tar"]  # without an index it is not a shard


def test_invalid_sample_is_rejected_before_it_is_written(tmp_path):
    good, bad, other = samples(3, ["a", "b.c", "d"])
    storage = LocalStorage(tmp_path)
    with ShardWriter(storage, "s-000000") as writer:
        writer.write(good)
        for refused in (bad, good):
            with pytest.raises(ManifestError):
                writer.write(refused)
        writer.write(other)
    assert writer.record.info == write_shard(LocalStorage(tmp_path / "2"), "s-000000", [good, other])


def test_record_is_stored_in_the_index(tmp_path):
    with ShardWriter(LocalStorage(tmp_path), "s-000000", inputs="abc") as writer:
        writer.write(samples(1)[0])
        writer.quarantine.append({"file": "/x.wav", "key": "x", "reason": "no such file"})
    _, record = index_from_bytes((tmp_path / "shards/s-000000.parquet").read_bytes(), "x")
    assert record == writer.record
    assert record.inputs == "abc"
    with pytest.raises(ShardError):
        index_from_bytes((tmp_path / "shards/s-000000.tar").read_bytes(), "x")
