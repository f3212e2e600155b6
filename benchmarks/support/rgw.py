"""A real S3 server for tests: Ceph's RADOS Gateway from Debian packages, one monitor and one store in memory.

It is started once a test run on free ports, keeps its state in a temporary folder, and is stopped by pid. Tests ask for
the fixture ``rgw`` (or ``bucket``, a fresh bucket with the AWS_* variables set). Where the packages are missing these
tests are skipped; as root on Debian, ``python tests/support/rgw.py --install`` installs them, as ``.ci/run`` does.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from benchmarks.support import servers

PACKAGES = ("radosgw", "ceph-mon", "ceph-osd", "ceph-common")
PROGRAMS = ("radosgw", "ceph-mon", "ceph-osd", "ceph", "radosgw-admin", "monmaptool", "ceph-authtool")
ACCESS, SECRET = "testaccess", "testsecrettestsecret"
START_S = 90  # until the next server answers, on a slow machine
STARTS = 2  # another process may take a port between the choice and the start
_CONFIG = """
[global]
fsid = {fsid}
mon_initial_members = a
mon_host = [v2:127.0.0.1:{mon}]
public_addr = 127.0.0.1
cluster_addr = 127.0.0.1
auth_cluster_required = cephx
auth_service_required = cephx
auth_client_required = cephx
keyring = {lab}/keyring
auth_allow_insecure_global_id_reclaim = false
osd_pool_default_size = 1
osd_pool_default_min_size = 1
mon_allow_pool_size_one = true
osd_pool_default_pg_num = 8
osd_pool_default_pg_autoscale_mode = off
osd_crush_chooseleaf_type = 0
mon_data = {lab}/mon
mon_data_avail_crit = 1
osd_data = {lab}/osd
osd_objectstore = memstore
memstore_device_bytes = 4294967296
log_file = {lab}/$name.log
admin_socket = {lab}/$name.asok
run_dir = {lab}
[client.rgw]
rgw_frontends = beast endpoint=127.0.0.1:{port}
"""


@dataclass(frozen=True)
class Gateway:
    """A running gateway."""

    endpoint: str

    @property
    def environment(self) -> dict[str, str]:
        """Environment variables that boto3 reads."""
        return {
            "AWS_ENDPOINT_URL": self.endpoint,
            "AWS_ACCESS_KEY_ID": ACCESS,
            "AWS_SECRET_ACCESS_KEY": SECRET,
            "AWS_DEFAULT_REGION": "us-east-1",
        }

    @property
    def client(self) -> Any:
        """A boto3 client that owes nothing to the code under test."""
        import boto3

        names = ("endpoint_url", "aws_access_key_id", "aws_secret_access_key", "region_name")
        return boto3.client("s3", **dict(zip(names, self.environment.values(), strict=True)))

    def new_bucket(self) -> str:
        """Name of a fresh bucket."""
        name = f"b-{uuid.uuid4().hex[:12]}"
        self.client.create_bucket(Bucket=name)
        return name


def missing() -> list[str]:
    """Programs that are not installed."""
    return servers.missing(PROGRAMS)


@contextmanager
def gateway() -> Iterator[Gateway]:
    """Run one until the end of the block; where it does not start, another in its place."""
    with tempfile.TemporaryDirectory(prefix="speakerlm-rgw-") as folder:  # short: sockets' paths are limited
        running: list[subprocess.Popen[bytes]] = []
        try:
            yield Gateway(_start_again(Path(folder), running))
        finally:
            _stop(running)


def _stop(running: list[subprocess.Popen[bytes]]) -> None:
    while running:
        servers.stop(running.pop())


def _start_again(folder: Path, running: list[subprocess.Popen[bytes]]) -> str:
    failed = []
    for number in range(STARTS):
        lab = folder / str(number)
        lab.mkdir()
        try:
            return _start(lab, running)
        except (RuntimeError, subprocess.TimeoutExpired) as error:
            _stop(running)
            failed.append(f"{error}\n{servers.ends(lab)}")
    raise RuntimeError("\n".join(failed))


def _start(lab: Path, running: list[subprocess.Popen[bytes]]) -> str:
    mon, port = servers.free_ports(2)
    endpoint, fsid = f"http://127.0.0.1:{port}", str(uuid.uuid4())
    config = lab / "ceph.conf"
    config.write_text(_CONFIG.format(fsid=fsid, lab=lab, mon=mon, port=port))
    for name in ("mon", "osd"):
        (lab / name).mkdir()

    def call(*command: str) -> str:
        done = subprocess.run(
            [*command[:1], "-c", str(config), *command[1:]],
            capture_output=True,
            text=True,
            timeout=START_S,
            check=False,
        )
        if done.returncode:
            raise RuntimeError(f"{' '.join(command)}: exit code {done.returncode}: {done.stderr[-1000:]}")
        return done.stdout

    def serve(*command: str) -> None:
        full = [command[0], "-f", "-c", str(config), *command[1:]]
        running.append(servers.serve(full, lab / f"{command[0]}.out"))

    _keys(lab)
    call("monmaptool", "--create", "--clobber", "--fsid", fsid, "--addv", "a", f"[v2:127.0.0.1:{mon}]", f"{lab}/monmap")
    call("ceph-mon", "--mkfs", "-i", "a", "--monmap", f"{lab}/monmap", "--keyring", f"{lab}/keyring")
    serve("ceph-mon", "-i", "a")
    osd = str(uuid.uuid4())
    call("ceph", "--connect-timeout", str(START_S - 5), "osd", "new", osd)
    call("ceph-osd", "-i", "0", "--mkfs", "--osd-uuid", osd)
    call("ceph", "auth", "add", "osd.0", "-i", f"{lab}/keyring")
    serve("ceph-osd", "-i", "0")
    servers.wait(lambda: "1 up" in call("ceph", "osd", "stat"), "the store", START_S)
    user = ("--uid=test", "--display-name=test", f"--access-key={ACCESS}", f"--secret-key={SECRET}")
    call("radosgw-admin", "user", "create", *user)
    serve("radosgw", "-n", "client.rgw")
    servers.wait(lambda: servers.answers(port), "the gateway", START_S)
    return endpoint


def _keys(lab: Path) -> None:
    everything = ("mon", "allow *", "osd", "allow *", "mgr", "allow *", "mds", "allow *")
    keys = {
        "mon.": ("mon", "allow *"),
        "client.admin": everything,
        "osd.0": ("mon", "allow profile osd", "osd", "allow *"),
        "client.rgw": ("mon", "allow rwx", "osd", "allow rwx"),
    }
    for name, caps in keys.items():
        pairs = [x for cap in zip(caps[::2], caps[1::2], strict=True) for x in ("--cap", *cap)]
        create = () if (lab / "keyring").exists() else ("--create-keyring",)
        command = ["ceph-authtool", *create, str(lab / "keyring"), "--gen-key", "-n", name, *pairs]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)


if __name__ == "__main__":
    servers.install_if_asked(PACKAGES, PROGRAMS)
