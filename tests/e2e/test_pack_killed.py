"""A packer that is killed with -9 at random moments and run again: on disk, and on a real S3 server."""

import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest

from tests.support.kill import kill_at_random
from tests.support.noise import make_noise_manifest

TRIALS = 20
OPTIONS = ["--no-speakers", "--samples-per-shard", "8"]


@pytest.fixture(scope="module")
def manifest(tmp_path_factory):
    folder = tmp_path_factory.mktemp("m") / "noise"
    make_noise_manifest(folder, 24, 30.0)  # three shards of 8 MB
    return folder


def report(killed):
    for number, (phase, seconds, _) in enumerate(killed, 1):
        print(f"kill {number:2}: after {seconds:5.2f} s, in {phase}")
    phases = Counter(phase for phase, _, _ in killed)
    print(dict(phases))
    return sum(phases[p] for p in ("write", "upload", "complete", "commit"))


def test_killed_pack_to_disk_resumes_to_the_same_bytes(manifest, tmp_path, capsys):
    outs = [tmp_path / f"o{i}" for i in range(TRIALS)]
    killed = kill_at_random(manifest, str(tmp_path / "whole"), [str(o) for o in outs], OPTIONS, seed=1)
    with capsys.disabled():
        assert report(killed) >= 15

    def content(folder):
        return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}

    whole = content(tmp_path / "whole")
    assert len(whole) == 3 * 2 + 2
    for _, _, out in killed:
        assert content(Path(out)) == whole  # without temporary files


@pytest.mark.timeout(600)
def test_killed_pack_to_s3_resumes_to_the_same_bytes(manifest, bucket, rgw, capsys):
    outs = [f"{bucket}/o{i}" for i in range(TRIALS)]
    killed = kill_at_random(
        manifest, f"{bucket}/whole", outs, OPTIONS, seed=2, environment=rgw.environment, part_bytes=5 << 20
    )
    with capsys.disabled():
        assert report(killed) >= 15
    client, name = rgw.client, bucket.removeprefix("s3://")

    def content(prefix):
        found = client.list_objects_v2(Bucket=name, Prefix=f"{prefix}/")["Contents"]
        return {o["Key"].removeprefix(prefix): o["ETag"] for o in found}  # a hash over the parts' hashes

    whole = content("whole")
    assert len(whole) == 3 * 2 + 2
    for _, _, out in killed:
        assert content(out.removeprefix(f"{bucket}/")) == whole
    assert "Uploads" not in client.list_multipart_uploads(Bucket=name)


def test_workers_end_with_the_packer(manifest, tmp_path):
    """Workers of a killed packer would continue to write, and a rerun would find their locks."""
    command = [sys.executable, "-m", "shards.cli", "pack", str(manifest), str(tmp_path / "o"), *OPTIONS]
    packer = subprocess.Popen([*command, "--workers", "2"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while not list(tmp_path.glob("o/shards/.*.tmp")):
        assert packer.poll() is None
        time.sleep(0.01)
    children = Path(f"/proc/{packer.pid}/task/{packer.pid}/children").read_text().split()
    packer.kill()
    packer.wait()
    deadline = time.monotonic() + 30
    while any(b"shards" in command_line(pid) or b"spawn_main" in command_line(pid) for pid in children):
        assert time.monotonic() < deadline, "a worker lives on"
        time.sleep(0.05)
    assert subprocess.run(command, stdout=subprocess.DEVNULL, check=False).returncode == 0


def command_line(pid):
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""
