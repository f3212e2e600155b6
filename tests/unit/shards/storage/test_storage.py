import errno
import fcntl
import gc
import os
import pickle
import threading
from pathlib import Path

import pytest

from shards.errors import StorageError
from shards.storage import local
from shards.storage.interface import open_storage
from shards.storage.local import OPEN_FILES, LocalStorage, atomic_file
from shards.storage.s3 import S3Storage
from tests.support.s3 import fake_s3


@pytest.fixture
def s3(monkeypatch):
    with fake_s3() as server:
        monkeypatch.setenv("AWS_ENDPOINT_URL", server.endpoint)
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "id")
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
        monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        yield server


@pytest.fixture(params=["local", "s3"])
def storage(request, tmp_path):
    if request.param == "local":
        return open_storage(tmp_path)
    request.getfixturevalue("s3")
    return open_storage("s3://bucket/some/prefix/")


def test_write_read_list_delete(storage):
    names = ["a/1.bin", "a/2.bin", "a/3.bin", "b.bin"]
    for name in names:
        storage.write_atomic(name, name.encode())
    assert storage.read("a/2.bin") == b"a/2.bin"
    assert storage.size("b.bin") == 5
    assert list(storage.list()) == names
    assert list(storage.list("a/")) == names[:3]
    assert list(storage.list("a/1")) == names[:1]
    storage.delete("b.bin")
    storage.delete("b.bin")
    assert not storage.exists("b.bin")
    assert storage.exists("a/1.bin")


def test_read_ranges(storage):
    storage.write_atomic("x", bytes(range(200)))
    assert storage.read_range("x", 10, 3) == bytes([10, 11, 12])
    assert storage.read_range("x", 198, 10) == bytes([198, 199])
    assert storage.read_range("x", 500, 10) == b""
    assert storage.read_range("x", 5, 0) == b""
    assert list(storage.read_ranges("x", [(i, 1) for i in range(200)])) == [bytes([i]) for i in range(200)]


def test_create_and_stream(storage):
    with storage.create("deep/er/x.tar") as file:
        file.write(b"12")
        file.write(b"34")
        assert not storage.exists("deep/er/x.tar")
    with storage.stream("deep/er/x.tar") as file:
        assert (file.read(3), file.read()) == (b"123", b"4")


def test_error_while_writing_leaves_no_file(storage):
    with pytest.raises(ZeroDivisionError), storage.create("x.tar") as file:
        file.write(b"12" * (1 // 0))
    assert list(storage.list()) == []


@pytest.mark.parametrize(("stumbles", "call"), [(1, "read"), (1, "exists"), (1, "size"), (9, "read"), (9, "exists")])
def test_transient_errors_of_a_network_filesystem_are_retried(tmp_path, monkeypatch, stumbles, call):
    (tmp_path / "x").write_bytes(b"12345")
    name = "read_bytes" if call == "read" else "stat"
    real, left = getattr(Path, name), [stumbles]

    def stale(path, *arguments, **named):
        if path.name == "x" and left[0]:
            left[0] -= 1
            raise OSError(errno.ESTALE, "Stale file handle")
        return real(path, *arguments, **named)

    monkeypatch.setattr(Path, name, stale)
    ask = getattr(LocalStorage(tmp_path, retry_pauses=(0.0, 0.0)), call)
    if stumbles == 1:
        assert ask("x") == {"read": b"12345", "exists": True, "size": 5}[call]
    else:
        with pytest.raises(StorageError, match="x: Stale file handle"):
            ask("x")
    assert not LocalStorage(tmp_path).exists("y")
    assert not LocalStorage(tmp_path / "x").exists("y")


def test_missing_file_is_a_storage_error_with_its_path(storage):
    for call in (storage.read, storage.size, lambda p: storage.read_range(p, 0, 1)):
        with pytest.raises(StorageError, match=r"nothing\.here"):
            call("nothing.here")


def test_storage_can_be_pickled(storage):
    storage.write_atomic("x", b"1")
    assert pickle.loads(pickle.dumps(storage)).read("x") == b"1"


def test_unsupported_schemes_and_missing_bucket_are_errors():
    with pytest.raises(StorageError, match="gs://"):
        open_storage("gs://bucket/x")
    with pytest.raises(StorageError, match="no bucket"):
        open_storage("s3://")


# Local files.


def test_temporary_files_are_removed_and_not_listed(tmp_path):
    storage = LocalStorage(tmp_path)
    with storage.create("x"):
        assert [p.name for p in tmp_path.iterdir()] == [".x.tmp"]
        assert list(storage.list()) == []
    with pytest.raises(ZeroDivisionError), storage.create("y"):
        _ = 1 // 0
    assert [p.name for p in tmp_path.iterdir()] == ["x"]


def test_temporary_file_of_a_killed_writer_is_reused(tmp_path):
    (tmp_path / ".x.tmp").write_bytes(b"longer than what comes")
    LocalStorage(tmp_path).write_atomic("x", b"new")
    assert (tmp_path / "x").read_bytes() == b"new"
    assert [p.name for p in tmp_path.iterdir()] == ["x"]


def test_second_writer_of_a_file_is_rejected(tmp_path):
    storage = LocalStorage(tmp_path)
    with (
        storage.create("x") as file,
        pytest.raises(StorageError, match="another process"),
        storage.create("x"),
    ):
        pass
    with storage.create("x") as file:
        file.write(b"first")
    assert storage.read("x") == b"first"


def test_second_atomic_write_waits_for_the_first(tmp_path):
    storage = LocalStorage(tmp_path)
    with storage.create("x") as file:
        second = threading.Thread(target=storage.write_atomic, args=("x", b"second"))
        second.start()
        file.write(b"first")
    second.join(20)
    assert storage.read("x") == b"second"


def test_filesystem_without_locks_works(tmp_path, monkeypatch):
    def flock(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", flock)
    LocalStorage(tmp_path).write_atomic("x", b"1")
    assert (tmp_path / "x").read_bytes() == b"1"


def test_full_disk_is_a_storage_error_and_leaves_no_file(tmp_path, monkeypatch):
    def fsync(_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", fsync)
    with pytest.raises(StorageError, match="No space left"), atomic_file(tmp_path / "x") as file:
        file.write(b"1")
    assert list(tmp_path.iterdir()) == []


def test_output_below_a_file_is_a_storage_error(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(StorageError, match="file"):
        LocalStorage(tmp_path / "file").write_atomic("x", b"1")


# S3.


@pytest.mark.parametrize("faults", [["503"], ["cut"], ["503", "cut", "cut"]])
def test_s3_faults_are_retried(s3, faults, monkeypatch):
    monkeypatch.setattr("time.sleep", lambda _: None)
    s3.objects["p/x"] = bytes(range(100))
    s3.faults[:] = faults
    assert S3Storage("s3://bucket/p").read_range("x", 10, 50) == bytes(range(10, 60))
    assert s3.faults == []


def test_persistent_s3_faults_are_a_storage_error(s3, monkeypatch):
    monkeypatch.setattr("time.sleep", lambda _: None)
    s3.objects["p/x"] = bytes(100)
    s3.faults[:] = ["cut"] * 100
    with pytest.raises(StorageError, match="s3://bucket/p/x"):
        S3Storage("s3://bucket/p").read("x")


def test_s3_reads_only_the_range(s3):
    s3.objects["p/x"] = bytes(100)
    S3Storage("s3://bucket/p").read_range("x", 10, 5)
    ((method, path, span),) = s3.requests
    assert (method, path.partition("?")[0], span) == ("GET", "/bucket/p/x", "bytes=10-14")


def test_missing_bucket_is_a_storage_error(s3):
    with pytest.raises(StorageError, match="nowhere"):
        S3Storage("s3://nowhere/p").write_atomic("x", b"1")


def test_missing_credentials_are_a_storage_error(s3, monkeypatch):
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/nonexistent")
    with pytest.raises(StorageError, match=r"s3://bucket/p/x.*credentials"):
        S3Storage("s3://bucket/p").read("x")


def test_a_file_that_was_replaced_is_opened_again(tmp_path, monkeypatch):
    """By this process; and by another, where a network filesystem says that the open one is stale."""
    storage = LocalStorage(tmp_path, retry_pauses=())
    for data in (b"one", b"two"):
        storage.write_atomic("x", data)
        assert storage.read_range("x", 0, 3) == data
    other = LocalStorage(tmp_path)
    other.write_atomic("x", b"six")
    assert storage.read_range("x", 0, 3) == b"two"  # the file that is open still has its content
    stale, read = storage._open["x"].descriptor, local._pread

    def network_read(descriptor, offset, length):
        if descriptor == stale:
            raise OSError(errno.ESTALE, "Stale file handle")
        return read(descriptor, offset, length)

    kept = storage._open["x"]  # so that its number is not used again
    monkeypatch.setattr(local, "_pread", network_read)
    assert storage.read_range("x", 0, 3) == b"six"
    assert kept.descriptor == stale
    storage.delete("x")
    with pytest.raises(StorageError, match="x: No such file"):
        storage.read_range("x", 0, 3)


def test_few_files_stay_open(tmp_path):
    def opened():
        """Count open files of the storage; other tests' files in this process may be closed meanwhile."""
        links = (entry.readlink() for entry in Path("/proc/self/fd").iterdir() if entry.is_symlink())
        return sum(link.is_relative_to(tmp_path) for link in links)

    storage = LocalStorage(tmp_path)
    for i in range(OPEN_FILES + 8):
        storage.write_atomic(f"x{i}", b"data")
    gc.collect()
    assert opened() == 0
    for i in range(OPEN_FILES + 8):
        assert storage.read_range(f"x{i}", 0, 4) == b"data"
    assert opened() == OPEN_FILES
    again = pickle.loads(pickle.dumps(storage))
    assert again.read_range("x0", 1, 2) == b"at"
    del storage, again
    gc.collect()
    assert opened() == 0
