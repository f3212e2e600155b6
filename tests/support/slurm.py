"""A real Slurm for tests, from Debian packages: a controller and two nodes on this machine.

It has keys and ports of its own, is started once a test run, keeps its state in a temporary folder, and is stopped by
pid. Tests ask for the fixture ``slurm``. It needs root (nodes start other users' jobs) and the packages; ``python
tests/support/slurm.py --install`` installs them, as ``.ci/run`` does. Its nodes stand in /etc/hosts while it runs.
"""

from __future__ import annotations

import os
import re
import secrets
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from benchmarks.support import servers

PACKAGES = ("slurmctld", "slurmd", "slurm-client", "munge", "slurm-wlm-basic-plugins")
PROGRAMS = ("slurmctld", "slurmd", "sbatch", "scontrol", "munged", "mungekey")
NODES = ("slm-n1", "slm-n2")
START_S = 90
HOSTS = Path("/etc/hosts")
_CONFIG = """
ClusterName=lab
FirstJobId={first}
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={controller}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
CredType=cred/munge
AuthInfo=socket={lab}/munge/socket,cred_expire=5
StateSaveLocation={lab}/state
SlurmctldPidFile={lab}/slurmctld.pid
SlurmdPidFile={lab}/%n.pid
SlurmdSpoolDir={lab}/spool-%n
ProctrackType=proctrack/linuxproc
TaskPlugin=task/affinity
TaskPluginParam=autobind=cores
JobAcctGatherType=jobacct_gather/none
MpiDefault=none
SwitchType=switch/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerParameters=bf_interval=2,batch_sched_delay=1,sched_interval=2
SlurmdParameters=config_overrides
ReturnToService=0
KillWait=30
MinJobAge=3600
JobRequeue=1
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
AccountingStorageType=accounting_storage/none
SlurmctldTimeout=60
SlurmdTimeout=60
MessageTimeout=60
InactiveLimit=0
NodeName={nodes} NodeHostname={host} NodeAddr=127.0.0.1 Port={ports} CPUs=2 RealMemory=4000 State=UNKNOWN
PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE State=UP PriorityTier=1 PreemptMode=REQUEUE GraceTime=60
PartitionName=urgent Nodes=ALL MaxTime=INFINITE State=UP PriorityTier=10 PreemptMode=OFF
"""


@dataclass(frozen=True)
class Job:
    """Fields of ``scontrol show job``."""

    state: str
    reason: str
    restarts: int
    code: int


@dataclass(frozen=True)
class Slurm:
    """A running cluster."""

    lab: Path

    @property
    def environment(self) -> dict[str, str]:
        """What its commands need."""
        return {"SLURM_CONF": str(self.lab / "slurm.conf")}

    def call(self, *command: str, cwd: Path | None = None, **env: str) -> str:
        """Output of one of its commands.

        Raises:
            RuntimeError: it failed; with what it said.
        """
        full = os.environ | self.environment | env
        done = subprocess.run(command, capture_output=True, text=True, cwd=cwd, env=full, check=False)
        if done.returncode:
            raise RuntimeError(f"{' '.join(command)}: exit code {done.returncode}: {done.stdout}{done.stderr}")
        return done.stdout

    def job(self, number: str) -> Job:
        """A job, or the last task of an array that is listed."""
        text = self.call("scontrol", "show", "job", number)
        got = {
            name: re.findall(rf"\b{name}=(\S+)", text)[-1] for name in ("JobState", "Reason", "Restarts", "ExitCode")
        }
        return Job(got["JobState"], got["Reason"], int(got["Restarts"]), int(got["ExitCode"].split(":")[0]))

    def wait_for(self, number: str, *states: str, seconds: float, log: Callable[[], str] = str) -> Job:
        """Until a job is in one of these states.

        Raises:
            AssertionError: it ended in another one, or the time is up; with the end of its log.
        """
        deadline = time.monotonic() + seconds
        while (job := self.job(number)).state not in states:
            over = job.state in ("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL", "OUT_OF_MEMORY")
            if over or time.monotonic() > deadline:
                raise AssertionError(f"job {number} is {job}, not {states}:\n{log()[-6000:]}")
            time.sleep(0.5)
        return job


@contextmanager
def cluster() -> Iterator[Slurm]:
    """Run one until the end of the block."""
    with tempfile.TemporaryDirectory(prefix="speakerlm-slurm-") as folder, _names():
        running: list[subprocess.Popen[bytes]] = []
        slurm = Slurm(Path(folder))
        try:
            _start(slurm, running)
            yield slurm
            slurm.call("scancel", "--user=root", "--full")
            servers.wait(lambda: not slurm.call("squeue", "-h").strip(), "the end of all jobs", START_S)
        finally:
            for process in reversed(running):
                servers.stop(process)


@contextmanager
def _names() -> Iterator[None]:
    """Nodes can be found by name, as on any cluster."""
    before = HOSTS.read_text()
    added = "".join(f"127.0.0.1 {name}\n" for name in NODES)
    HOSTS.write_text(before.rstrip("\n") + "\n" + added)
    try:
        yield
    finally:
        HOSTS.write_text(HOSTS.read_text().replace(added, "", 1))


def _start(slurm: Slurm, running: list[subprocess.Popen[bytes]]) -> None:
    lab, host = slurm.lab, socket.gethostname().split(".")[0]
    lab.chmod(0o755)
    for name in ("state", "munge"):
        (lab / name).mkdir(mode=0o755)
    (lab / "munge" / "key").write_bytes(secrets.token_bytes(128))
    (lab / "munge" / "key").chmod(0o400)
    controller, *ports = servers.free_ports(1 + len(NODES))
    nodes = f"{NODES[0][:-1]}[1-{len(NODES)}]"
    first = 1000 + secrets.randbelow(18_000)  # ports of jobs follow from it: of two test runs on a machine too
    config = _CONFIG.format(
        lab=lab, host=host, first=first, controller=controller, nodes=nodes, ports=f"{ports[0]}-{ports[-1]}"
    )
    (lab / "slurm.conf").write_text(config)
    own = {name: f"{lab}/munge/{name}" for name in ("key", "socket", "pid", "log", "seed")}
    options = [f"--{n}-file={own[n]}" for n in ("key", "pid", "log", "seed")] + [f"--socket={own['socket']}"]
    running.append(servers.serve(["munged", "-F", "--force", "--num-threads=2", *options], lab / "munged.out"))
    servers.wait(lambda: Path(own["socket"]).exists(), "munge", START_S)
    env = os.environ | slurm.environment
    running.append(servers.serve(["slurmctld", "-D", "-c"], lab / "slurmctld.out", env))
    running.extend(servers.serve(["slurmd", "-D", "-N", name], lab / f"{name}.out", env) for name in NODES)

    def idle() -> bool:
        done = subprocess.run(["sinfo", "-h", "-t", "idle", "-o", "%D"], capture_output=True, env=env, check=False)
        return done.stdout.decode().split()[:1] == [str(len(NODES))]

    servers.wait(idle, f"Slurm (its logs: {servers.ends(lab)})", START_S)


def why_not() -> str:
    """Why there can be no cluster here; empty where there can."""
    return servers.why_not(PACKAGES, PROGRAMS, "nodes of Slurm")


if __name__ == "__main__":
    servers.install_if_asked(PACKAGES, PROGRAMS)
