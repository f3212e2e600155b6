"""Speaker vectors by CAM++ in several processes, each in place of an accelerator: the bytes of one process."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.support.manifests import make_manifest
from tests.support.speech import package_cache


@pytest.fixture(scope="module")
def shards_command():
    """Runs ``speakerlm-shards`` with these arguments, in a process."""
    environment = os.environ | {"SPEAKERLM_CACHE": str(package_cache()), "OMP_NUM_THREADS": "1"}

    def start(*arguments):
        command = [sys.executable, "-m", "shards.cli", *map(str, arguments)]
        return subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, start_new_session=True)

    return start


@pytest.fixture(scope="module")
def packed(tmp_path_factory, shards_command):
    folder = tmp_path_factory.mktemp("data")
    make_manifest(folder / "m", 24, seconds=4.0)
    assert (
        shards_command("pack", folder / "m", folder / "o", "--samples-per-shard", "2", "--max-self-enrolled", "1").wait(
            200
        )
        == 0
    )
    return folder


def content(folder, pattern="*"):
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob(pattern) if p.is_file()}


def finished(packed):
    """Return the finished sidecars, without temporary files, which may disappear."""
    return [path for path in (packed / "o").rglob("*-campplus*") if path.suffix != ".tmp"]


def embed(shards_command, packed, *options):
    return shards_command("embed", packed / "o", "--manifest", packed / "m", "--extractor", "campplus", *options)


def remove(packed):
    for path in (packed / "o").rglob("*-campplus*"):
        path.unlink()


@pytest.mark.timeout(600)  # a process of torch takes its time to start on a busy machine, and each has some
def test_packing_with_devices_gives_the_same_bytes(packed, shards_command):
    options = ["--samples-per-shard", "2", "--devices", "cpu,cpu", "--workers", "1"]
    assert shards_command("pack", packed / "m", packed / "d", *options).wait(250) == 0
    assert content(packed / "d") == {k: v for k, v in content(packed / "o").items() if "-campplus" not in k}


@pytest.mark.timeout(600)
def test_killed_embed_on_devices_resumes_to_the_bytes_of_one_process(packed, shards_command):
    remove(packed)
    assert embed(shards_command, packed).wait(200) == 0
    whole = content(packed / "o", "*-campplus*")
    assert len(whole) == 12 + 3
    remove(packed)
    killed = embed(shards_command, packed, "--devices", "cpu,cpu", "--readers", "1")
    deadline = time.monotonic() + 150
    while len(finished(packed)) < 2:
        assert killed.poll() is None, "it ended before it was killed"
        assert time.monotonic() < deadline
        time.sleep(0.005)
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    while group := members(killed.pid):
        assert time.monotonic() < deadline, f"processes live on: {group}"
        time.sleep(0.05)
    left = {path.relative_to(packed / "o").as_posix(): path.read_bytes() for path in finished(packed)}
    assert 2 <= len(left) < 14
    assert left == {name: whole[name] for name in left}
    assert embed(shards_command, packed, "--devices", "cpu,cpu", "--readers", "1").wait(250) == 0
    assert content(packed / "o", "*-campplus*") == whole


def members(session):
    """Return the running processes of a session, without zombies."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, _, _, of = stat.read_text().rpartition(")")[2].split()[:4]
        except OSError:
            continue
        if int(of) == session and state != "Z":
            found.append(int(stat.parent.name))
    return found
