"""One scan of the manifest for all tasks, even if the scanning task dies."""

import subprocess
import sys
import threading
import time
from dataclasses import replace

import numpy as np
import pytest

from shards.cli import main
from shards.errors import ManifestError
from shards.manifests.manifest import RECORDINGS
from shards.packing.partition import LineTable
from shards.packing.scan import ClaimTimes, shared_table, stored_table
from shards.storage.local import LocalStorage
from shards.storage.s3 import S3Storage
from tests.support.manifests import make_manifest
from tests.support.s3 import fake_s3


@pytest.fixture
def manifest(tmp_path):
    make_manifest(tmp_path / "m", 13)
    return tmp_path / "m"


@pytest.fixture(params=["disk", "s3"])
def storage(request, tmp_path, monkeypatch):
    if request.param == "disk":
        yield LocalStorage(tmp_path / "o")
        return
    with fake_s3() as server:
        for name, value in (("ENDPOINT_URL", server.endpoint), ("ACCESS_KEY_ID", "id"), ("SECRET_ACCESS_KEY", "s")):
            monkeypatch.setenv(f"AWS_{name}", value)
        monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        yield S3Storage("s3://bucket/p")


QUICK = ClaimTimes(heartbeat=0.1, dead=5.0, poll=0.05)


class Scans:
    """Counts scans, and makes each take some time."""

    def __init__(self, seconds=0.3):
        self.seconds, self.count = seconds, 0

    def __call__(self, folder):
        self.count += 1
        time.sleep(self.seconds)
        return LineTable(folder)


@pytest.fixture
def scans():
    return Scans()


def lines(table):
    return len(table), table.sha256, table.offsets(np.arange(len(table)))


def at_once(count, work):
    found = []
    threads = [threading.Thread(target=lambda: found.append(work())) for _ in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
        assert not thread.is_alive()
    return found


def test_simultaneous_tasks_scan_once(manifest, storage, scans):
    tables = at_once(4, lambda: shared_table(manifest, storage, "m", scan=scans, times=QUICK))
    assert scans.count == 1
    assert [lines(t) for t in tables] == [lines(LineTable(manifest))] * 4
    assert list(storage.list("plan/")) == ["plan/m.lines"]  # the claim is gone


def test_dead_scanning_task_is_replaced(manifest, storage, scans):
    times = replace(QUICK, dead=0.4)
    storage.write_atomic("plan/m.claim", b"a task of long ago")
    tables = at_once(3, lambda: shared_table(manifest, storage, "m", scan=scans, times=times))
    assert 1 <= scans.count <= 2  # two may find it dead at once; only one gets the claim, the other waits for it
    assert [lines(t) for t in tables] == [lines(LineTable(manifest))] * 3


def test_slow_scan_does_not_count_as_dead(manifest, tmp_path):
    scans, times = Scans(seconds=4), ClaimTimes(heartbeat=0.05, dead=2.0, poll=0.05)
    storage = LocalStorage(tmp_path / "o")
    assert len(at_once(2, lambda: shared_table(manifest, storage, "m", scan=scans, times=times))) == 2
    assert scans.count == 1


def test_changed_manifest_is_scanned_again(manifest, storage):
    before = lines(shared_table(manifest, storage, "m"))
    with (manifest / RECORDINGS).open("rb+") as file:  # the same size
        file.seek((manifest / RECORDINGS).read_bytes().index("段".encode()))
        file.write("断".encode())
    assert stored_table(manifest, storage, "m") is None
    after = lines(shared_table(manifest, storage, "m"))
    assert after[1] != before[1]
    assert lines(stored_table(manifest, storage, "m")) == after


@pytest.mark.parametrize("damage", [lambda d: d[:-8], lambda d: d[:100], lambda d: b"x" + d, lambda d: b""])
def test_damaged_table_is_ignored(manifest, storage, damage):
    whole = lines(shared_table(manifest, storage, "m"))
    storage.write_atomic("plan/m.lines", damage(storage.read("plan/m.lines")))
    assert stored_table(manifest, storage, "m") is None
    assert lines(shared_table(manifest, storage, "m")) == whole


def test_invalid_manifest_fails_in_every_task_and_leaves_no_file(manifest, storage, scans):
    (manifest / RECORDINGS).write_text("{}\n")

    def work():
        with pytest.raises(ManifestError, match="has no key"):
            shared_table(manifest, storage, "m", scan=scans, times=QUICK)
        return True

    assert at_once(3, work) == [True] * 3
    assert list(storage.list("plan/")) == []


def pack(manifest, out, *options):
    assert main(["pack", str(manifest), str(out), "--samples-per-shard", "4", "--no-speakers", *options]) == 0


def content(folder):
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_tasks_of_an_array_share_a_scan_and_the_merge_cleans_up(manifest, tmp_path, monkeypatch):
    pack(manifest, tmp_path / "whole")
    scan, scanned = LineTable._scan, []
    monkeypatch.setattr(LineTable, "_scan", lambda table: (scanned.append(table), scan(table))[1])
    for task in (2, 0):
        pack(manifest, tmp_path / "o", "--part", f"{task}/3")
        assert (tmp_path / "o/plan/m.lines").exists()
    pack(manifest, tmp_path / "o", "--part", "1/3")
    assert len(scanned) == 1
    assert content(tmp_path / "o") == content(tmp_path / "whole")


def test_a_dry_run_of_a_task_writes_nothing(manifest, tmp_path):
    pack(manifest, tmp_path / "o", "--part", "0/3", "--dry-run")
    assert not (tmp_path / "o").exists()


def test_tasks_in_separate_processes(manifest, tmp_path):
    pack(manifest, tmp_path / "whole")
    command = [sys.executable, "-m", "shards.cli", "pack", str(manifest), str(tmp_path / "o"), "--no-speakers"]
    tasks = [subprocess.Popen([*command, "--samples-per-shard", "4", "--part", f"{i}/3"]) for i in range(3)]
    assert [task.wait(120) for task in tasks] == [0, 0, 0]
    assert content(tmp_path / "o") == content(tmp_path / "whole")
