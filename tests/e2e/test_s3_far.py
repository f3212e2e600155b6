"""Loading from an S3 server with 20 or 100 ms latency and failing connections gives the same samples."""

from __future__ import annotations

import errno
import os
import time
from collections import Counter

import pytest

import shards.storage.s3
import shards.storage.s3_client
from pipeline.data.loader import Loader, SampleReader
from pipeline.data.readahead import READS
from pipeline.prompts import PromptTokenizer
from shards.dataset.dataset import Dataset, open_dataset
from shards.errors import StorageError
from tests.support.datasets import make_dataset
from tests.support.latency import far
from tests.support.planning import make_data, packed_plan
from tests.support.s3 import fake_s3
from tests.support.tiny import TEXTS, make_tokenizer

pytestmark = pytest.mark.timeout(300)
SAMPLES = 60


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    return PromptTokenizer.from_folder(make_tokenizer(tmp_path_factory.mktemp("tokenizer"), TEXTS))


@pytest.fixture(scope="module")
def local(tmp_path_factory, tokenizer):
    made = make_dataset(tmp_path_factory.mktemp("data") / "d", samples=SAMPLES, samples_per_shard=10)
    packed_plan([made], tokenizer)  # its lengths too
    return made


@pytest.fixture(scope="module")
def here(local, tokenizer):
    return list(epoch(local, tokenizer))


def epoch(dataset: Dataset, tokenizer: PromptTokenizer, workers: int = 0) -> Loader:
    plan = packed_plan([dataset], tokenizer, data=make_data(max_frames=400))
    return Loader(plan, SampleReader([dataset], tokenizer, 2, 192), workers=workers)


def same_as(here, dataset, tokenizer, workers=2) -> None:
    """Same tensors, same steps, nothing replaced."""
    steps = list(epoch(dataset, tokenizer, workers))
    assert sum(len(b.keys) for s in steps for b in s.micro_batches) == SAMPLES
    for a, b in zip(here, steps, strict=True):
        assert (a.step, a.state) == (b.step, b.state)
        assert b.replaced == ()
        for x, y in zip(a.micro_batches, b.micro_batches, strict=True):
            for name, value in vars(x).items():
                other = getattr(y, name)
                assert value.equal(other) if hasattr(value, "equal") else value == other, name


@pytest.mark.parametrize(("delay", "resets"), [(0.02, 0.0), (0.1, 0.0), (0.02, 0.1)])
def test_high_latency_server(local, here, tokenizer, rgw, bucket, monkeypatch, delay, resets):
    name = bucket.removeprefix("s3://")
    for path in local.storage.list():
        rgw.client.put_object(Bucket=name, Key=f"p/{path}", Body=local.storage.read(path))
    with far(rgw.endpoint, delay, resets, seed=1) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.endpoint)
        same_as(here, open_dataset(f"{bucket}/p"), tokenizer)
        requests, broken = proxy.stop()
    assert requests > SAMPLES
    assert (broken > 3) == bool(resets)


@pytest.fixture
def s3(monkeypatch, local):
    """A server that can be made to fail, with the dataset."""
    monkeypatch.setattr("time.sleep", lambda _: None)
    monkeypatch.setattr(shards.storage.s3_client, "READ_TIMEOUT_S", 2.0)
    monkeypatch.setattr(shards.storage.s3_client, "READ_ATTEMPTS", 12)
    with fake_s3() as server:
        for name, value in (("ENDPOINT_URL", server.endpoint), ("ACCESS_KEY_ID", "id"), ("SECRET_ACCESS_KEY", "s")):
            monkeypatch.setenv(f"AWS_{name}", value)
        monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        server.objects |= {f"p/{path}": local.storage.read(path) for path in local.storage.list()}
        yield server


def test_server_with_failing_responses(s3, local, here, tokenizer):
    kinds = ("500", "503", "reset", "cut", "short", "stall")
    s3.plague(0.15, 3, kinds)
    same_as(here, open_dataset("s3://bucket/p"), tokenizer)
    assert s3.done.total() > 10
    assert set(s3.done) == set(kinds)


@pytest.mark.parametrize("workers", [0, 2])
def test_sample_is_one_request(s3, here, tokenizer, workers):
    """At any read-ahead."""
    same_as(here, open_dataset("s3://bucket/p"), tokenizer, workers)
    spans = [(path.partition("?")[0], span) for _, path, span in s3.requests if span]
    assert len(spans) == len(set(spans)) == SAMPLES


def test_next_micro_batch_is_requested_before_this_one_is_returned(s3, local, tokenizer):
    dataset, data = open_dataset("s3://bucket/p"), make_data(micro_batches_per_step=1, max_frames=400)
    first, second, *_ = (s.micro_batches[0] for s in packed_plan([local], tokenizer, data=data))
    plan = packed_plan([dataset], tokenizer, data=data)
    steps = iter(Loader(plan, SampleReader([dataset], tokenizer, 2, 192)))
    assert next(steps).micro_batches[0].keys == tuple(p.key for p in first.samples)
    ahead = {(p.shard, p.row) for p in second.samples}
    offsets = {(s, r): local.index(s)["flac_offset"][r].as_py() for s, r in ahead}
    wanted = {(local.shards[s].tar, str(offset)) for (s, _), offset in offsets.items()}
    deadline = time.monotonic() + 20  # they are on their way, on other threads
    while time.monotonic() < deadline and not wanted <= asked(s3):
        s3.closing.wait(0.05)
    assert wanted <= asked(s3)
    steps.close()


def asked(s3) -> set[tuple[str, str]]:
    """Return the requested tars and offsets."""
    found = [(path.partition("?")[0], span) for _, path, span in s3.requests if span]
    return {(path.removeprefix("/bucket/p/"), span.removeprefix("bytes=").partition("-")[0]) for path, span in found}


@pytest.mark.parametrize("workers", [0, 1])
def test_transient_errors_of_a_network_filesystem_are_retried(local, here, tokenizer, monkeypatch, workers):
    """As NFS does after a failover: the handle is stale, a fresh open is not."""
    read, seen = os.pread, Counter()

    def stumbles(descriptor, length, offset):
        seen[offset, length] += 1
        if seen[offset, length] <= 2:
            raise OSError(errno.ESTALE if seen[offset, length] == 1 else errno.EIO, "Stale file handle")
        return read(descriptor, length, offset)

    monkeypatch.setattr("shards.storage.local.RETRY_PAUSES", (0.0, 0.0, 0.0))
    monkeypatch.setattr("os.pread", stumbles)
    same_as(here, local, tokenizer, workers)
    if not workers:
        assert set(seen.values()) == {3}


def test_persistent_errors_of_a_network_filesystem_stop_the_run(local, tokenizer, monkeypatch):
    def fails(descriptor, length, offset):
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr("shards.storage.local.RETRY_PAUSES", (0.0, 0.0, 0.0))
    monkeypatch.setattr("os.pread", fails)
    with pytest.raises(StorageError, match=r"synthetic-00000\d\.tar: Input/output error"):
        list(epoch(local, tokenizer))


def test_worker_keeps_many_reads_in_flight(s3, tokenizer, monkeypatch):
    """Counted at the storage, in this process."""
    dataset = open_dataset("s3://bucket/p")
    flying = most = 0
    read = dataset.storage.read_range
    pause = time.monotonic

    def slow(path, offset, length):
        nonlocal flying, most
        flying += 1
        most = max(most, flying)
        begun = pause()
        while pause() - begun < 0.05:
            s3.closing.wait(0.01)
        try:
            return read(path, offset, length)
        finally:
            flying -= 1

    monkeypatch.setattr(dataset.storage, "read_range", slow)
    plan = packed_plan([dataset], tokenizer, data=make_data(max_positions=3000, max_frames=2000))
    sizes = [len(b.samples) for s in plan for b in s.micro_batches if b]
    assert max(sizes) > READS
    plan = packed_plan([dataset], tokenizer, data=make_data(max_positions=3000, max_frames=2000))
    steps = list(Loader(plan, SampleReader([dataset], tokenizer, 2, 192)))
    assert sum(len(b.keys) for s in steps for b in s.micro_batches) == SAMPLES
    assert most == READS
