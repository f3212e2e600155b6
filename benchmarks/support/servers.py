"""Common parts of fixtures with real servers: packages, free ports, processes that end with the tests."""

from __future__ import annotations

import ctypes
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path


def missing(programs: Iterable[str]) -> list[str]:
    """Programs that are not installed."""
    path = os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/sbin"])
    return [p for p in programs if shutil.which(p, path=path) is None]


def install(packages: Sequence[str]) -> None:
    """Install Debian packages: needs root and apt-get. Nothing of them is started."""
    env = os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
    quiet = ("-q", "-y", "--no-install-recommends")
    subprocess.run(["apt-get", "update", "-q"], check=True, env=env, stdout=subprocess.DEVNULL)
    subprocess.run(["apt-get", "install", *quiet, *packages], check=True, env=env, stdout=subprocess.DEVNULL)


def why_not(packages: Iterable[str], programs: Iterable[str], as_root: str = "") -> str:
    """Return why a server cannot be started here, empty if it can. ``as_root`` names what only root can do."""
    if as_root and os.geteuid():
        return f"{as_root} need root"
    lacking = missing(programs)
    return f"install the packages {', '.join(packages)}: {', '.join(lacking)} missing" if lacking else ""


def install_if_asked(packages: Sequence[str], programs: Sequence[str]) -> None:
    """Command line of a fixture's file: with ``--install`` install its packages, and report what is missing."""
    if sys.argv[1:] == ["--install"] and missing(programs):
        install(packages)
    print(why_not(packages, programs) or "everything is installed")


def serve(command: Sequence[str], log: Path, env: Mapping[str, str] | None = None) -> subprocess.Popen[bytes]:
    """Start a server that stays in the foreground, in a session of its own."""
    with log.open("ab") as out:
        return subprocess.Popen(command, stdout=out, stderr=out, env=env, preexec_fn=_end_with_parent)  # noqa: PLW1509


def _end_with_parent() -> None:
    """A session of its own; and a test run that is killed takes its servers along."""
    os.setsid()
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG


def stop(process: subprocess.Popen[bytes]) -> None:
    """Ask it to end, then end it."""
    process.send_signal(signal.SIGTERM)
    try:
        process.wait(5)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def free_ports(count: int) -> list[int]:
    """Consecutive free TCP ports, below those that the kernel hands to clients.

    Of a client's range, one could be taken between this call and the server's start.
    """
    first_of_clients = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    while True:
        first = 10_000 + secrets.randbelow(max(first_of_clients - 10_000 - count, 1))
        if all(map(_free, range(first, first + count))):
            return list(range(first, first + count))


def _free(port: int) -> bool:
    with socket.socket() as s:
        s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as servers do: one that just ended does not count
        try:
            s.bind(("", port))
        except OSError:
            return False
        return True


def answers(port: int) -> bool:
    """Whether somebody listens there."""
    with socket.socket() as s:
        return s.connect_ex(("127.0.0.1", port)) == 0


def wait(ready: Callable[[], object], what: str, seconds: float) -> None:
    """Until it is ready.

    Raises:
        RuntimeError: the time is up.
    """
    deadline = time.monotonic() + seconds
    while not ready():
        if time.monotonic() > deadline:
            raise RuntimeError(f"{what} did not come in {seconds:.0f} s")
        time.sleep(0.2)


def ends(lab: Path) -> str:
    """The last that each server in this folder printed, for an error's text."""
    logs = sorted([*lab.glob("*.out"), *lab.glob("*.log")])
    return "; ".join(f"{p.name}: {p.read_text(errors='replace')[-600:]}" for p in logs)
