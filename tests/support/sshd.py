"""Two ssh hosts for tests, 127.0.0.2 and 127.0.0.3, with keys of their own; no user's ~/.ssh is read or written.

Tests ask for the fixture ``hosts``. It needs root and the packages; ``python tests/support/sshd.py --install`` installs
them, as ``.ci/run`` does.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from benchmarks.support import servers

PACKAGES = ("openssh-server", "openssh-client", "pdsh")
PROGRAMS = ("sshd", "ssh", "ssh-keygen", "pdsh")
ADDRESSES = ("127.0.0.2", "127.0.0.3")
_SERVER = """
{listen}
HostKey {lab}/host
AuthorizedKeysFile {lab}/id.pub
PidFile none
PasswordAuthentication no
PermitRootLogin prohibit-password
StrictModes no
UsePAM no
"""
_CLIENT = """
Host *
  User root
  Port {port}
  IdentityFile {lab}/id
  IdentitiesOnly yes
  StrictHostKeyChecking no
  UserKnownHostsFile /dev/null
  LogLevel ERROR
"""


@dataclass(frozen=True)
class Hosts:
    """Where they are."""

    lab: Path

    @property
    def hostfile(self) -> Path:
        """For ``deepspeed --hostfile``."""
        return self.lab / "hostfile"

    @property
    def environment(self) -> dict[str, str]:
        """An ``ssh`` first in PATH that knows keys and port: pdsh and deepspeed both call it by name."""
        return {"PATH": os.pathsep.join([str(self.lab / "bin"), os.environ["PATH"]])}


@contextmanager
def two_hosts() -> Iterator[Hosts]:
    """Run them until the end of the block."""
    with tempfile.TemporaryDirectory(prefix="speakerlm-ssh-") as folder:
        lab, port = Path(folder), servers.free_ports(1)[0]
        for key in ("host", "id"):
            subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(lab / key)], check=True)
        listen = "\n".join(f"ListenAddress {a}:{port}" for a in ADDRESSES)
        (lab / "sshd_config").write_text(_SERVER.format(lab=lab, listen=listen))
        (lab / "ssh_config").write_text(_CLIENT.format(lab=lab, port=port))
        (lab / "bin").mkdir()
        (lab / "bin" / "ssh").write_text(f'#!/bin/sh\nexec {shutil.which("ssh")} -F {lab}/ssh_config "$@"\n')
        (lab / "bin" / "ssh").chmod(0o755)
        hosts = Hosts(lab)
        hosts.hostfile.write_text("".join(f"{a} slots=1\n" for a in ADDRESSES))
        Path("/run/sshd").mkdir(exist_ok=True)
        server = servers.serve(["/usr/sbin/sshd", "-D", "-e", "-f", str(lab / "sshd_config")], lab / "sshd.out")
        env = os.environ | hosts.environment
        try:
            for address in ADDRESSES:
                call = ["ssh", address, "true"]
                servers.wait(lambda c=call: not subprocess.run(c, env=env, check=False).returncode, address, 30)
            yield hosts
        finally:
            servers.stop(server)


def why_not() -> str:
    """Why there can be no hosts here; empty where there can."""
    return servers.why_not(PACKAGES, PROGRAMS, "two ssh hosts on one machine")


if __name__ == "__main__":
    servers.install_if_asked(PACKAGES, PROGRAMS)
