"""Two hosts in network namespaces of this machine, joined by a cable, whose own names resolve to 127.0.1.1.

That is what Debian and Ubuntu write into /etc/hosts. It needs root; each host has its own /etc/hosts, name and
interfaces, and nothing of this machine's is changed.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.support.distributed import CPU, ROOT

NAMES, ADDRESSES = ("speakerlm-a", "speakerlm-b"), ("10.99.7.1", "10.99.7.2")
_PROGRAMS = ("ip", "nsenter", "unshare", "mount", "hostname")


@dataclass(frozen=True)
class Host:
    """One of them."""

    name: str
    pid: int  # of the process that keeps its namespaces

    def start(self, *code: str, **env: str) -> subprocess.Popen[str]:
        """Start Python there, with the CPU's settings; its output is stdout."""
        command = self._inside(sys.executable, *code)
        full = {**os.environ, **CPU, **env}
        return subprocess.Popen(
            command, cwd=ROOT, env=full, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )

    def call(self, *command: str) -> None:
        """Run a program there."""
        subprocess.run(self._inside(*command), check=True, capture_output=True)

    def _inside(self, *command: str) -> list[str]:
        return ["nsenter", f"--target={self.pid}", "--net", "--uts", "--mount", *command]


def why_not() -> str:
    """Why there can be none here; empty where there can."""
    if missing := [name for name in _PROGRAMS if shutil.which(name) is None]:
        return f"{', '.join(missing)} missing"
    if os.geteuid():
        return "not root"
    done = subprocess.run(["unshare", "--net", "--uts", "--mount", "true"], capture_output=True, check=False)
    return "no network namespaces" if done.returncode else ""


@contextmanager
def two_hosts() -> Iterator[tuple[Host, Host]]:
    """Both, until the end of the block."""
    keepers: list[subprocess.Popen[bytes]] = []
    with tempfile.TemporaryDirectory(prefix="speakerlm-hosts-") as folder:
        try:
            for _ in NAMES:
                keepers.append(subprocess.Popen(["unshare", "--net", "--uts", "--mount", "sleep", "600"]))
            for keeper in keepers:
                _wait_for_namespace(keeper.pid)
            hosts = tuple(Host(name, keeper.pid) for name, keeper in zip(NAMES, keepers, strict=True))
            peer = ["type", "veth", "peer", "name", "eth7", "netns", str(hosts[1].pid)]
            subprocess.run(["ip", "link", "add", "eth7", "netns", str(hosts[0].pid), *peer], check=True)
            for host, address in zip(hosts, ADDRESSES, strict=True):
                _set_up(host, address, Path(folder))
            yield hosts[0], hosts[1]
        finally:
            for keeper in keepers:
                keeper.kill()
                keeper.wait()


def _set_up(host: Host, address: str, folder: Path) -> None:
    other = next((n, a) for n, a in zip(NAMES, ADDRESSES, strict=True) if n != host.name)
    hosts = folder / host.name
    hosts.write_text(f"127.0.0.1 localhost\n127.0.1.1 {host.name}\n{other[1]} {other[0]}\n")
    host.call("mount", "--bind", str(hosts), "/etc/hosts")
    host.call("hostname", host.name)
    host.call("ip", "addr", "add", f"{address}/24", "dev", "eth7")
    for interface in ("lo", "eth7"):
        host.call("ip", "link", "set", interface, "up")


def _wait_for_namespace(pid: int) -> None:
    own, end = Path("/proc/self/ns/net").readlink(), time.monotonic() + 20
    while Path(f"/proc/{pid}/ns/net").readlink() == own:
        assert time.monotonic() < end, "unshare did not start"
        time.sleep(0.02)


def outputs(started: Sequence[subprocess.Popen[str]], seconds: float) -> list[tuple[int, str]]:
    """Exit code and output of each; what is left after ``seconds`` is killed."""
    end, out = time.monotonic() + seconds, []
    for process in started:
        try:
            text = process.communicate(timeout=max(0.1, end - time.monotonic()))[0]
        except subprocess.TimeoutExpired:
            process.kill()
            text = process.communicate()[0]
        out.append((process.returncode, text))
    return out
