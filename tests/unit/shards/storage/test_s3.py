"""S3 faults, one by one and at random, against a server in this process."""

import json
import multiprocessing
import re
import sys
import threading
import time

import pytest

import shards.storage.s3
import shards.storage.s3_client
import shards.storage.s3_upload
from shards.cli import main
from shards.errors import StorageError
from shards.storage.s3 import S3Storage
from tests.support.manifests import make_manifest
from tests.support.s3 import FAULTS, fake_s3

PART = 64 << 10


@pytest.fixture
def s3(monkeypatch):
    monkeypatch.setattr("time.sleep", lambda _: None)
    monkeypatch.setattr(shards.storage.s3_upload, "PART_BYTES", PART)
    monkeypatch.setattr(shards.storage.s3, "READ_BYTES", PART)
    monkeypatch.setattr(shards.storage.s3_client, "READ_TIMEOUT_S", 1.0)  # a busy machine needs as much
    with fake_s3() as server:
        for name, value in (("ENDPOINT_URL", server.endpoint), ("ACCESS_KEY_ID", "id"), ("SECRET_ACCESS_KEY", "s")):
            monkeypatch.setenv(f"AWS_{name}", value)
        monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        yield server


def storage():
    return S3Storage("s3://bucket/p")


def write(data, path="x"):
    with storage().create(path) as file:
        for first in range(0, len(data), 10_000):
            file.write(data[first : first + 10_000])


DATA = bytes(range(256)) * 1000  # four parts


def test_large_object_is_uploaded_in_parts(s3):
    write(DATA)
    assert s3.objects == {"p/x": DATA}
    assert s3.uploads == {}
    assert sum(method == "PUT" for method, _, _ in s3.requests) == 4
    with storage().stream("x") as file:
        assert file.read() == DATA


@pytest.mark.parametrize("size", [0, 1, PART - 1, PART, PART + 1, 2 * PART])
def test_objects_of_any_size_round_trip(s3, size):
    write(DATA[:size])
    assert s3.objects["p/x"] == DATA[:size]
    with storage().stream("x") as file:
        assert file.read() == DATA[:size]


def test_error_while_writing_leaves_no_open_upload(s3):
    with pytest.raises(ZeroDivisionError), storage().create("x") as file:
        file.write(DATA * (1 + file.write(DATA) // 0))
    assert (s3.objects, s3.uploads) == ({}, {})


def test_open_upload_of_a_killed_writer_is_aborted(s3):
    s3.uploads |= {"a": ("p/x", {}), "b": ("p/x-2", {}), "c": ("p/other", {}), "d": ("q/x", {})}
    write(DATA)
    assert set(s3.uploads) == {"b", "c", "d"}
    assert storage().clean("x") == ["x-2"]
    assert set(s3.uploads) == {"c", "d"}


@pytest.mark.parametrize("kind", ["500", "503", "reset", "lost"])
@pytest.mark.parametrize("before", range(7))
def test_fault_at_any_request_of_an_upload_is_retried(s3, kind, before):
    """Initiate, four parts, complete, list the open uploads."""
    real, calls = s3.fault, iter(range(100))

    def fault(fits):
        if kind in fits and next(calls) == before:
            s3.done[kind] += 1
            return kind
        return real(fits)

    s3.fault = fault
    write(DATA)
    assert s3.done[kind] == (0 if kind == "lost" and before == 6 else 1)
    assert s3.objects["p/x"] == DATA
    if not (kind == "lost" and before == 0):  # an upload that was initiated, but whose id never arrived
        assert s3.uploads == {}


@pytest.mark.parametrize("kind", ["500", "503", "reset", "cut", "short", "stall"])
def test_fault_while_reading_is_retried(s3, kind):
    s3.objects["p/x"] = DATA
    s3.faults[:] = [kind] * 2
    assert storage().read_range("x", 1000, 500) == DATA[1000:1500]
    assert s3.done[kind] == 2


def test_persistent_short_reads_are_a_storage_error(s3):
    s3.objects["p/x"] = DATA
    s3.faults[:] = ["short"] * 99
    with pytest.raises(StorageError, match="s3://bucket/p/x: the server sends fewer bytes than requested"):
        storage().read_range("x", 0, 100)


@pytest.mark.parametrize(
    ("status", "answer", "message"),
    [
        (
            400,
            "<Code>ExpiredToken</Code><Message>The provided token has expired.</Message>",
            "session token has expired",
        ),
        (400, "<Code>InvalidToken</Code><Message>m</Message>", "session token is not valid"),
        (
            400,
            "<Code>AuthorizationHeaderMalformed</Code><Message>the region 'us-east-1' is wrong; expecting "
            "'eu-west-1'</Message><Region>eu-west-1</Region>",
            "signed for the wrong region; set AWS_DEFAULT_REGION to eu-west-1",
        ),
        (
            403,
            "<Code>RequestTimeTooSkewed</Code><Message>m</Message><RequestTime>20260101T000000Z</RequestTime>"
            "<ServerTime>2026-01-02T00:00:00Z</ServerTime>",
            "clock of this machine is wrong; set it: the server's time is 2026-01-02T00:00:00Z, requests say 20260101T",
        ),
        (403, "<Code>SignatureDoesNotMatch</Code><Message>m</Message>", "check AWS_SECRET_ACCESS_KEY"),
        (403, "<Code>InvalidAccessKeyId</Code><Message>m</Message>", "unknown access key"),
        (400, "<Code>SomethingNew</Code><Message>what it is</Message>", r"\(SomethingNew\) .*: what it is"),
    ],
)
def test_a_refusal_names_its_cause(s3, tmp_path, capsys, status, answer, message):
    """The response to a HEAD, the first request, has no body and says 400 Bad Request or 403 Forbidden."""
    s3.refusal = status, answer
    for work in (lambda: storage().exists("x"), lambda: storage().read("x"), lambda: storage().version("x")):
        with pytest.raises(StorageError, match=message):
            work()
    with pytest.raises(StorageError, match=message):
        storage().write_atomic("x", b"")
    make_manifest(tmp_path / "m")
    assert main(["pack", str(tmp_path / "m"), "s3://bucket/data", "--no-speakers"]) == 1
    assert re.search(message, capsys.readouterr().err)


def test_a_head_that_alone_is_refused_keeps_its_error(s3, monkeypatch):
    s3.objects["p/x"] = b"12"
    s3.faults[:] = ["403"]
    with pytest.raises(StorageError, match="access denied; check AWS_ACCESS_KEY_ID"):
        storage().exists("x")


def test_process_forked_while_another_thread_makes_a_client_can_read(s3, monkeypatch):
    """A loader worker may be forked while the thread that mirrors checkpoints opens its first connection."""
    write(b"12345")
    began, real = threading.Event(), shards.storage.s3_client.new_client

    def slow():
        began.set()
        time.sleep(0.5)
        return real()

    monkeypatch.setattr(shards.storage.s3_client, "new_client", slow)
    thread = threading.Thread(target=lambda: storage().client)
    thread.start()
    assert began.wait(10)
    worker = multiprocessing.get_context("fork").Process(target=lambda: sys.exit(storage().read("x") != b"12345"))
    worker.start()
    worker.join(30)
    worker.kill()
    thread.join()
    assert worker.exitcode == 0


def test_many_ranges_are_read_concurrently(s3):
    s3.objects["p/x"] = DATA
    gate = threading.Barrier(16)
    real = s3.fault

    def fault(fits):
        if "403" in fits:  # at the beginning of a request, which continues when 16 have arrived
            gate.wait(20)
        return real(fits)

    s3.fault = fault
    assert list(storage().read_ranges("x", [(i, 10) for i in range(16)])) == [DATA[i : i + 10] for i in range(16)]


# Commit under a condition.


def test_commit_detects_other_writers(s3):
    first = storage().version("x")
    assert first is None
    storage().commit("x", b"1", None)
    second = storage().version("x")
    storage().commit("x", b"2", second)
    storage().commit("x", b"2", second)  # the same bytes: no matter who wrote them
    for stale in (None, second):
        with pytest.raises(StorageError, match=r"s3://bucket/p/x: another process wrote different content"):
            storage().commit("x", b"3", stale)
    assert s3.objects["p/x"] == b"2"


@pytest.mark.parametrize("there", [None, b"old"])
def test_commit_with_a_lost_response_succeeds(s3, there):
    if there:
        s3.objects["p/x"] = there
    version = storage().version("x")
    s3.faults[:] = ["lost"]
    storage().commit("x", b"new", version)
    assert s3.objects["p/x"] == b"new"


# What the user reads.


def error(call, *args):
    with pytest.raises(StorageError) as caught:
        call(*args)
    return str(caught.value)


def test_missing_bucket_is_reported(s3):
    lost = S3Storage("s3://nowhere/p")
    for call in (lost.exists, lost.read, lost.size, lost.version, lambda p: list(lost.list(p))):
        message = error(call, "x")
        assert "s3://nowhere/p" in message
        assert "create it" in message


def test_wrong_access_key_is_reported(s3, monkeypatch):
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "other")
    assert "check AWS_ACCESS_KEY_ID" in error(storage().read, "x")
    assert "check AWS_ACCESS_KEY_ID" in error(storage().exists, "x")


def test_unreachable_endpoint_is_reported(s3, monkeypatch):
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    message = error(storage().read, "x")
    assert "s3://bucket/p/x" in message
    assert "AWS_ENDPOINT_URL" in message


def test_access_denied_is_not_retried(s3):
    s3.objects["p/x"] = DATA
    s3.faults[:] = ["403"] * 2
    assert "access denied" in error(storage().read, "x")
    assert s3.done["403"] == 1
    assert "access denied" in error(storage().size, "x")


# Packing through faults.


def pack(manifest, out, code=0):
    assert main(["pack", str(manifest), out, "--no-speakers", "--samples-per-shard", "4"]) == code


@pytest.fixture
def manifest(tmp_path):
    make_manifest(tmp_path / "m", 14, seconds=3.0)
    return tmp_path / "m"


@pytest.mark.parametrize("seed", [1, 2])
def test_packing_and_verifying_while_every_fifth_request_fails(s3, manifest, tmp_path, seed, capsys):
    pack(manifest, str(tmp_path / "whole"))
    s3.plague(0.2, seed, [k for k in FAULTS if k != "403"])
    pack(manifest, "s3://bucket/p")
    assert main(["verify", "s3://bucket/p"]) == 0
    assert set(s3.done) >= {"500", "503", "reset", "lost", "cut"}
    whole = {p.relative_to(tmp_path / "whole").as_posix(): p.read_bytes() for p in tmp_path.rglob("whole/**/*.*")}
    assert {k.removeprefix("p/"): v for k, v in s3.objects.items()} == whole
    assert s3.uploads == {}
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["faults"] == 0


def test_output_that_becomes_unwritable_leaves_no_open_upload_and_can_be_finished(s3, manifest, tmp_path, capsys):
    real, calls = s3.fault, iter(range(10_000))
    s3.fault = lambda fits: "403" if "403" in fits and "lost" in fits and next(calls) >= 8 else real(fits)
    pack(manifest, "s3://bucket/p", code=1)
    assert "access denied" in capsys.readouterr().err
    assert s3.uploads == {}
    assert "p/dataset.json" not in s3.objects
    s3.fault = real
    pack(manifest, "s3://bucket/p")
    assert main(["verify", "s3://bucket/p"]) == 0


def test_wrong_credentials_stop_before_anything_is_packed(s3, manifest, monkeypatch, capsys):
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "other")
    monkeypatch.setattr("shards.packing.packer.make_sample", lambda *_, **__: 1 // 0)
    pack(manifest, "s3://bucket/p", code=1)
    assert "check AWS_ACCESS_KEY_ID" in capsys.readouterr().err
    assert s3.objects == {}


def test_missing_bucket_stops_before_anything_is_packed(s3, manifest, monkeypatch, capsys):
    monkeypatch.setattr("shards.packing.packer.make_sample", lambda *_, **__: 1 // 0)
    pack(manifest, "s3://nowhere/p", code=1)
    assert "s3://nowhere/p: no such bucket; create it" in capsys.readouterr().err
