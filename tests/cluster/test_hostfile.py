"""The same training by `deepspeed --hostfile` on two ssh hosts, with the environment in a `.deepspeed_env`."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline.ranks.launch import free_port
from tests.support import sshd
from tests.support.campaign import Campaign
from tests.support.distributed import CPU, ROOT, run_command
from tests.support.rgw import SECRET
from tests.support.sshd import ADDRESSES, Hosts

LONG = 600
pytestmark = pytest.mark.timeout(8 * LONG)  # this or the other file waits for the whole chain


@pytest.fixture(scope="module")
def hosts() -> Iterator[Hosts]:
    """Skips where there can be none."""
    if reason := sshd.why_not():
        pytest.skip(f"no ssh hosts: {reason} (as root on Debian, .ci/run does)")
    with sshd.two_hosts() as running:
        yield running


def test_two_hosts_train_a_stage_from_s3_to_its_end(
    hosts: Hosts, chain: dict[str, str], campaign: Campaign, tmp_path: Path
) -> None:
    """Stage 2, after the one that the batch jobs trained. What ssh does not carry comes from the file."""
    keep = {name: value for name, value in campaign.environment.items() if name.startswith("AWS_")}
    (tmp_path / ".deepspeed_env").write_text("".join(f"{k}={v}\n" for k, v in (keep | CPU).items() if v))
    command = [str(Path(sys.executable).parent / "deepspeed"), "--hostfile", str(hosts.hostfile)]
    command += ["--master_addr", ADDRESSES[0], "--master_port", str(free_port())]
    script = [str(ROOT / "launch" / "train.py"), str(campaign.recipes / "stage2.yaml"), f"output={tmp_path}/run"]
    env = hosts.environment | {"DS_ENV_FILE": str(tmp_path / ".deepspeed_env")}
    fate = run_command([*command, *script], LONG, env)
    assert fate.code == 0, fate.output[-6000:]
    assert all(f"{address}: " in fate.output for address in ADDRESSES)
    done = json.loads((tmp_path / "run" / "done").read_text())
    assert (done["stage"], done["step"]) == (2, 4)
    last = sorted((tmp_path / "run" / "checkpoints").iterdir())[-1]
    assert json.loads((last / "manifest.json").read_text())["world_size"] == 2
    assert SECRET not in fate.output
