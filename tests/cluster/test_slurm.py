"""From manifests to scores by the batch scripts, on a real Slurm with a real S3 server; and what may happen."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from shards.dataset.dataset import open_dataset
from shards.storage.interface import open_storage
from tests.support.campaign import STEPS, TEST, Campaign
from tests.support.distributed import ROOT
from tests.support.faults import checkpoints, rows, same_run
from tests.support.frozen import Frozen
from tests.support.rgw import SECRET, Gateway
from tests.support.slurm import NODES, Slurm

LONG = 1200  # seconds that a job may take on a busy machine
pytestmark = pytest.mark.timeout(4 * LONG)


def test_an_array_packs_the_same_bytes_as_one_process(chain: dict[str, str], s3: Campaign) -> None:
    """The demo's speech: digits of real voices from Debian packages, put together to conversations in rooms with noise.

    Of the demo's six datasets these are the three that it trains on and a test set, fewer conversations of each.
    """
    assert set(s3.corpus.packing) == {"asr", "simulated", "harder", "test-simulated"}
    for name, (_, folder, *_) in s3.corpus.packing.items():
        remote, local = open_storage(s3.data(name)), open_storage(folder)
        names = list(local.list())  # training and embedding have put files of their own beside them
        assert {n: remote.read(n) for n in names} == {n: local.read(n) for n in names}
        assert [n for n in remote.list() if n.endswith((".tar", ".json"))] == [
            n for n in names if n.endswith((".tar", ".json"))
        ]
        assert len(open_dataset(s3.data(name)).shards) >= 2
    assert s3.said().count("of 2 on slm-n") == 2 * len(s3.corpus.packing)  # tasks


def test_the_chain_trains_on_two_nodes_and_is_scored(chain: dict[str, str], campaign: Campaign) -> None:
    for stage in (1, 2, 3, 4):
        run = campaign.run(stage)
        assert (run / "done").exists()
        last = sorted((run / "checkpoints").iterdir())[-1]
        assert json.loads((last / "manifest.json").read_text())["world_size"] == 2
    assert [r["step"] for r in rows(campaign.run(1), "train")] == list(range(1, STEPS + 1))
    said = campaign.said()
    assert said.count("2 nodes are alike") == 4
    assert said.count("2 cores for a rank") == 8  # all that the job has, though srun does not inherit --cpus-per-task
    assert said.count("Gloo connects slm-n1") == 4
    scores = json.loads((campaign.folder / "scores" / "scores.json").read_text())
    assert {r["stage"] for r in scores} == {4}
    assert {r["mode"] for r in scores} >= {"no", "match"}
    assert all(r["n_ref"] > 0 for r in scores)
    assert not list(campaign.folder.rglob("*.tar")), "a shard was copied here"


def test_credentials_are_nowhere(chain: dict[str, str], campaign: Campaign, slurm: Slurm, rgw: Gateway) -> None:
    """Not in logs, dumps of configurations, checkpoints, scores, Slurm's state, nor in what was put into the bucket."""
    files = [p for folder in (campaign.folder, slurm.lab) for p in folder.rglob("*") if p.is_file()]
    assert len(files) > 50
    found = [p for p in files if SECRET.encode() in p.read_bytes()]
    assert found == [campaign.folder / "home" / "credentials"]
    name = campaign.bucket.removeprefix("s3://")
    for entry in rgw.client.list_objects_v2(Bucket=name)["Contents"]:
        body = rgw.client.get_object(Bucket=name, Key=entry["Key"])["Body"].read()
        assert SECRET.encode() not in body, entry["Key"]


def test_a_job_writes_vectors_beside_the_shards(chain: dict[str, str], s3: Campaign, slurm: Slurm) -> None:
    """embed.sbatch, on the CPU where a node has no accelerator."""
    log = s3.folder / "logs" / "embed.out"
    command = ("sbatch", "--parsable", f"--output={log}", "launch/slurm/embed.sbatch", s3.data(TEST))
    manifest, _, *options = s3.corpus.packing[TEST]
    enrol = options[options.index("--enrol") :]
    wanted = ("--manifest", manifest, "--extractor", "campplus", *enrol)
    number = slurm.call(*command, *wanted, cwd=ROOT, **s3.environment).strip()
    slurm.wait_for(number, "COMPLETED", seconds=LONG, log=log.read_text)
    assert json.loads(log.read_text().splitlines()[-1])["shards"] == 2
    vectors = [n for n in open_storage(s3.data(TEST)).list() if "campplus" in n and n.startswith("shards/")]
    assert len(vectors) == 2


# ------------------------------------------------------------------------------------------------ what may happen to it


# Each does something to a job whose ranks stand still, yields when they may continue, and sees to what follows.


def requeued(slurm: Slurm, number: str) -> Iterator[None]:
    slurm.call("scontrol", "requeue", number)
    yield


def time_limit(slurm: Slurm, number: str) -> Iterator[None]:
    """The limit comes so near that Slurm sends its early signal: it looks every half minute, and 30 s before that."""
    clock = slurm.call("squeue", "-h", "-j", number, "-o", "%M").strip().split(":")
    slurm.call("scontrol", "update", f"JobId={number}", f"TimeLimit={int(clock[-2]) + 2}")
    yield
    _until(lambda: slurm.job(number).restarts == 1, "the start after the time limit")
    slurm.call("scontrol", "update", f"JobId={number}", "TimeLimit=60")


def preempted(slurm: Slurm, number: str) -> Iterator[None]:
    wanted = ("--partition=urgent", "--nodes=2", "--exclusive", "--output=/dev/null", "--wrap", "true")
    urgent = slurm.call("sbatch", "--parsable", *wanted).strip()
    yield
    slurm.wait_for(urgent, "COMPLETED", seconds=LONG)


def node_down(slurm: Slurm, number: str) -> Iterator[None]:
    slurm.call("scontrol", "update", f"NodeName={NODES[1]}", "State=DOWN", "Reason=test")
    yield
    slurm.wait_for(number, "PENDING", seconds=LONG)
    slurm.call("scontrol", "update", f"NodeName={NODES[1]}", "State=RESUME")


@pytest.mark.parametrize("happens", [requeued, time_limit, preempted, node_down])
def test_what_happens_to_a_job_changes_nothing(
    slurm: Slurm, chain: dict[str, str], campaign: Campaign, happens: Callable[[Slurm, str], Iterator[None]]
) -> None:
    """Same samples in the same steps, same losses and weights, to the bit, as the stage that nothing happened to."""
    run = campaign.folder / "disturbed" / happens.__name__
    number = submit(slurm, campaign, run)

    def log() -> str:
        return (campaign.folder / "logs" / f"{run.name}.out").read_text(errors="replace")

    _until(lambda: len(steps(run)) >= 3 or slurm.job(number).state == "FAILED", f"three steps of {run}", log)
    assert len(steps(run)) >= 3, log()[-6000:]
    ranks = Frozen(run)
    for _ in happens(slurm, number):
        ranks.thaw_when_asked()
    slurm.wait_for(number, "COMPLETED", seconds=LONG, log=log)
    job = slurm.job(number)
    assert job.restarts == 1, log()[-6000:]
    starts = log().split("trainable set:")
    assert len(starts) == 3, log()[-6000:]
    if happens is time_limit:
        assert "stopped after step" in starts[1]
    assert same_run(run, campaign.run(1))
    assert [_what(r) for r in rows(run, "train")] == [_what(r) for r in rows(campaign.run(1), "train")]
    assert checkpoints(run)[-1] == STEPS


def submit(slurm: Slurm, campaign: Campaign, run: Path) -> str:
    """Stage 1 again, into another folder."""
    output = ("--output", str(campaign.folder / "logs" / f"{run.name}.out"))
    script = ("launch/slurm/train.sbatch", str(campaign.recipes / "stage1.yaml"), f"output={run}")
    resources = ("--nodes=2", "--ntasks-per-node=1", "--time=60", "--signal=USR1@60")
    command = ("sbatch", "--parsable", *resources, *output, *script)
    return slurm.call(*command, cwd=ROOT, **campaign.environment).strip()


def steps(run: Path) -> list[int]:
    """Those in the log so far; its last line may be half written."""
    log = run / "train.jsonl"
    lines = log.read_text().splitlines(keepends=True) if log.exists() else []
    return [json.loads(line)["step"] for line in lines if line.endswith("\n")]


def _what(row: dict[str, Any]) -> dict[str, Any]:
    """A line of the log without times."""
    return {
        name: value
        for name, value in row.items()
        if name in ("step", "loss", "targets", "positions", "audio_seconds", "data")
    }


def _until(ready: Callable[[], object], what: str, log: Callable[[], str] = str) -> None:
    end = time.monotonic() + LONG
    while not ready():
        assert time.monotonic() < end, f"{what} did not come: {log()[-4000:]}"
        time.sleep(0.3)
