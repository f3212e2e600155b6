"""Storage and packer against a real S3 server."""

import os
import subprocess
import sys

import pytest

import shards.storage.s3
import shards.storage.s3_upload
from shards.cli import main
from shards.dataset.dataset import open_dataset
from shards.dataset.reader import read_meta, read_sample
from shards.errors import AudioError, StorageError
from shards.storage.interface import open_storage
from shards.storage.sources import local_file
from tests.support.noise import make_noise_manifest

OPTIONS = ["--no-speakers", "--samples-per-shard", "8"]


@pytest.fixture
def parts(monkeypatch):
    monkeypatch.setattr(shards.storage.s3_upload, "PART_BYTES", 5 << 20)


@pytest.fixture(scope="module")
def manifest(tmp_path_factory):
    folder = tmp_path_factory.mktemp("m") / "noise"
    make_noise_manifest(folder, 16, 22.0)
    return folder


def test_same_bytes_as_on_disk(manifest, bucket, rgw, tmp_path, parts):
    assert main(["pack", str(manifest), str(tmp_path / "o"), *OPTIONS]) == 0
    assert main(["pack", str(manifest), f"{bucket}/p", *OPTIONS, "--workers", "2"]) == 0
    remote, local = open_storage(f"{bucket}/p"), open_storage(tmp_path / "o")
    names = list(local.list())
    assert len(names) == 2 * 2 + 2
    assert list(remote.list()) == names
    for name in names:
        assert remote.read(name) == local.read(name), name
    assert main(["verify", f"{bucket}/p"]) == 0
    there, here = open_dataset(f"{bucket}/p"), open_dataset(tmp_path / "o")
    assert read_meta(there, 1) == read_meta(here, 1)
    assert read_sample(there, 1, 3).members() == read_sample(here, 1, 3).members()
    assert "Uploads" not in rgw.client.list_multipart_uploads(Bucket=bucket.removeprefix("s3://"))


def test_simultaneous_tasks_of_an_array(manifest, bucket, rgw, tmp_path):
    """They scan the manifest once; one of them, or a rerun, merges."""
    assert main(["pack", str(manifest), str(tmp_path / "o"), *OPTIONS]) == 0
    command = [sys.executable, "-m", "shards.cli", "pack", str(manifest), f"{bucket}/p", *OPTIONS]
    environment = os.environ | rgw.environment
    tasks = [subprocess.Popen([*command, "--part", f"{i}/2"], env=environment) for i in range(2)]
    assert [task.wait(200) for task in tasks] == [0, 0]
    remote, local = open_storage(f"{bucket}/p"), open_storage(tmp_path / "o")
    assert {n: remote.read(n) for n in remote.list()} == {n: local.read(n) for n in local.list()}


def test_audio_of_manifests_on_the_server(bucket, monkeypatch):
    monkeypatch.setattr(shards.storage.s3, "READ_BYTES", 1000)
    open_storage(bucket).write_atomic("speech/a b+ü.wav", bytes(range(256)) * 10)
    with local_file(f"{bucket}/speech/a b+ü.wav") as path:
        assert path.read_bytes() == bytes(range(256)) * 10
    with pytest.raises(AudioError, match="no such object"), local_file(f"{bucket}/speech/none.wav"):
        pass


def test_multipart_conditions_and_ranges(bucket, parts):
    storage = open_storage(f"{bucket}/p")
    data = bytes(range(256)) * 50_000
    with storage.create("a/x") as file:
        file.write(data)
    assert storage.size("a/x") == len(data)
    with storage.stream("a/x") as file:
        assert file.read() == data
    assert list(storage.read_ranges("a/x", [(i * 1000, 7) for i in range(100)])) == [
        data[i * 1000 : i * 1000 + 7] for i in range(100)
    ]
    assert storage.read_range("a/x", len(data) - 3, 10) == data[-3:]
    assert storage.read_range("a/x", len(data) + 3, 10) == b""
    storage.commit("m", b"1", None)
    version = storage.version("m")
    storage.commit("m", b"2", version)
    for stale in (None, version):
        with pytest.raises(StorageError, match="another process wrote different content"):
            storage.commit("m", b"3", stale)
    assert storage.read("m") == b"2"
    assert list(storage.list()) == ["a/x", "m"]
    storage.delete("m")
    assert not storage.exists("m")


def test_open_uploads_are_found_and_aborted(bucket, rgw):
    client, name = rgw.client, bucket.removeprefix("s3://")
    for key in ("p/shards/n-000001.tar", "p/shards/other-000001.tar"):
        upload = client.create_multipart_upload(Bucket=name, Key=key)["UploadId"]
        client.upload_part(Bucket=name, Key=key, UploadId=upload, PartNumber=1, Body=b"x")
    assert open_storage(f"{bucket}/p").clean("shards/n-") == ["shards/n-000001.tar"]
    left = client.list_multipart_uploads(Bucket=name)["Uploads"]
    assert [u["Key"] for u in left] == ["p/shards/other-000001.tar"]


def error(call, *args):
    with pytest.raises(StorageError) as caught:
        call(*args)
    return str(caught.value)


def test_wrong_credentials_are_reported(bucket, monkeypatch):
    storage = open_storage(f"{bucket}/p")
    storage.write_atomic("x", b"1")
    for variable, word in (("SECRET_ACCESS_KEY", "secret key is wrong"), ("ACCESS_KEY_ID", "unknown access key")):
        with monkeypatch.context() as patch:
            patch.setenv(f"AWS_{variable}", "wrong")
            wrong = open_storage(f"{bucket}/p")
            message = error(wrong.read, "x")
            assert f"{bucket}/p/x" in message
            assert word in message
            assert f"AWS_{variable}" in message
            for call in (wrong.exists, wrong.size, lambda p, w=wrong: w.write_atomic(p, b"2")):
                assert "AWS_" in error(call, "x")
    assert storage.read("x") == b"1"


def test_missing_bucket_is_reported(bucket, manifest, capsys):
    storage = open_storage("s3://never-made/p")
    for call in (storage.exists, storage.read, storage.size, lambda p: storage.write_atomic(p, b"1")):
        message = error(call, "x")
        assert "s3://never-made/p" in message
        assert "create it" in message
    assert main(["pack", str(manifest), "s3://never-made/p", *OPTIONS]) == 1
    assert "create it" in capsys.readouterr().err
