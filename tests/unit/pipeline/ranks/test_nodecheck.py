"""Node checks before a run. Nodes are processes here, over real sockets."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import pytest

from pipeline.ranks import nodecheck, nodefacts
from pipeline.ranks.launch import free_port
from pipeline.ranks.nodecheck import NodeReport, judge, report_to
from pipeline.recipe.load import save_recipe
from tests.support.datasets import make_dataset
from tests.support.toy import toy_recipe

ROOT = Path(__file__).resolve().parents[4]
# An nvidia-smi: as the real one, it refuses a query for a field that it does not know.
SMI = """#!/usr/bin/env python3
import sys
fields = next(a for a in sys.argv if a.startswith("--query-gpu=")).split("=")[1].split(",")
for field in fields:
    if field not in {known!r}:
        print(f'Field "{{field}}" is not a valid field to query.')
        sys.exit(2)
for row in {rows!r}:
    print(", ".join(row[field] for field in fields))
"""
CARD = {
    "index": "0", "uuid": "GPU-0", "name": "NVIDIA H100 80GB HBM3", "driver_version": "570.1", "memory.used": "3",
    "ecc.errors.uncorrected.volatile.total": "0", "clocks_throttle_reasons.hw_slowdown": "Not Active",
    "clocks_event_reasons.hw_slowdown": "Not Active",
}  # fmt: skip


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("nodes")
    make_dataset(folder / "data", samples=2, dim=0)
    return folder / "data"


@pytest.fixture
def recipe(packed: Path, tmp_path: Path) -> Path:
    made = toy_recipe(tmp_path / "run")
    made.data.train[0].path = str(packed)
    save_recipe(made, tmp_path / "recipe.yaml")
    return tmp_path / "recipe.yaml"


def smi(folder: Path, *cards: dict[str, str], unknown: Sequence[str] = ()) -> Path:
    """A folder with an nvidia-smi that reports these GPUs, CARD but for what is named; it lacks ``unknown`` fields."""
    folder.mkdir()
    rows = [CARD | {"index": str(i), "uuid": f"GPU-{i}"} | card for i, card in enumerate(cards or ({},))]
    known = [field for field in CARD if field not in unknown]
    (folder / "nvidia-smi").write_text(SMI.format(known=known, rows=rows))
    (folder / "nvidia-smi").chmod(0o755)
    return folder


BAD = {
    "memory.used": "9000", "ecc.errors.uncorrected.volatile.total": "7",
    "clocks_throttle_reasons.hw_slowdown": "Active",
}  # fmt: skip


def node(name: str, rank: int, port: int, *command: str, count: int = 2, **env: str) -> subprocess.Popen[str]:
    place = {"RANK": str(rank), "WORLD_SIZE": str(count), "LOCAL_RANK": "0", "MASTER_ADDR": "127.0.0.1"}
    full = {**os.environ, **place, "MASTER_PORT": str(port), "SLURMD_NODENAME": name, **env}
    start = [sys.executable, "-m", "pipeline.ranks.nodecheck", "--disk-gb", "0.001", "--timeout", "60", *command]
    return subprocess.Popen(start, cwd=ROOT, env=full, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


@contextmanager
def nodes(*started: subprocess.Popen[str]) -> Iterator[list[tuple[int, str]]]:
    """Exit code and output of each."""
    try:
        outputs = [p.communicate(timeout=120)[0] for p in started]
        yield [(p.returncode, text) for p, text in zip(started, outputs, strict=True)]
    finally:
        for p in started:
            p.kill()


def test_taken_port_is_named(recipe: Path) -> None:
    with socket.create_server(("", 0)) as server:
        port = server.getsockname()[1]
        with nodes(node("n0", 0, port, str(recipe), "--init-from", "x", count=1)) as ends:
            assert ends[0][0] == 1, ends
            assert f"BAD NODE n0: OSError: cannot listen on port {port}" in ends[0][1]
            assert "set another MASTER_PORT" in ends[0][1]


def test_equal_nodes_pass(recipe: Path) -> None:
    port = free_port()
    with nodes(*(node(f"n{r}", r, port, str(recipe), "--init-from", "x") for r in (0, 1))) as ends:
        assert [code for code, _ in ends] == [0, 0], ends
        assert "2 nodes are alike" in ends[0][1]
        assert "node n1: ok" in ends[0][1]
        assert "answers in" in ends[0][1]
        assert "Gloo connects n0 " in ends[0][1]
    assert not list((recipe.parent / "run").iterdir()), "the probe file was left behind"


def test_node_with_a_bad_gpu_is_named(recipe: Path, tmp_path: Path) -> None:
    port, path = free_port(), os.environ["PATH"]
    good, bad = smi(tmp_path / "good"), smi(tmp_path / "bad", BAD)
    cards = {"SLURM_GPUS_ON_NODE": "1", "SLURM_JOB_GPUS": "0"}
    first = node("n0", 0, port, str(recipe), PATH=f"{good}:{path}", **cards)
    second = node("n1", 1, port, str(recipe), PATH=f"{bad}:{path}", **cards)
    with nodes(first, second) as ends:
        code, said = ends[0]
        assert code == 1
        assert "node n0: ok" in said
        for fault in ("7 uncorrected memory errors", "is slowed down", "9000 MiB in use by another process"):
            assert any(line.startswith("BAD NODE n1: card 0") and fault in line for line in said.splitlines()), said
        assert "--exclude=n1" in said


@pytest.mark.parametrize(
    "unknown",
    [
        ["clocks_event_reasons.hw_slowdown"],
        ["clocks_throttle_reasons.hw_slowdown"],
        ["clocks_event_reasons.hw_slowdown", "clocks_throttle_reasons.hw_slowdown", "memory.used"],
    ],
)
def test_a_field_that_a_driver_does_not_know_is_not_a_fault(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, unknown: list[str]
) -> None:
    """It was renamed in driver 535; what is known is checked still."""
    slow = {"clocks_event_reasons.hw_slowdown": "Active", "clocks_throttle_reasons.hw_slowdown": "Active"}
    faulty = smi(tmp_path / "bin", {}, slow | {"ecc.errors.uncorrected.volatile.total": "7"}, unknown=unknown)
    monkeypatch.setenv("PATH", f"{faulty}:{os.environ['PATH']}")
    facts, equal = nodefacts.cards(2)
    faults = [f.text for f in facts if not f.ok]
    assert equal["driver"] == "570.1"
    assert "card 1 (NVIDIA H100 80GB HBM3): 7 uncorrected memory errors: have it reset" in faults
    assert len(faults) == 1 + (len(unknown) == 1), faults
    if len(unknown) > 1:
        said = "not checked, because nvidia-smi has no such field: memory.used, clocks_event_reasons.hw_slowdown"
        assert said in [f.text for f in facts]


def test_cards_of_other_jobs_are_not_judged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Four cards in the node, two of them ours; nvidia-smi shows all where nothing keeps jobs apart."""
    busy = {"memory.used": "60000"}
    node = smi(tmp_path / "bin", busy, {}, busy | {"ecc.errors.uncorrected.volatile.total": "7"}, {})
    monkeypatch.setenv("PATH", f"{node}:{os.environ['PATH']}")

    def faults(wanted: int, **env: str) -> list[str]:
        return [f.text for f in nodefacts.cards(wanted, nodefacts.own_cards(env))[0] if not f.ok]

    assert faults(2, SLURM_STEP_GPUS="1,3") == []
    assert faults(2, CUDA_VISIBLE_DEVICES="GPU-1,GPU-3") == []
    assert faults(2) == []  # not known which: as many are idle
    assert faults(3) == ["2 idle cards of 4, 3 wanted"]
    assert len(faults(2, SLURM_JOB_GPUS="2-3")) == 2  # ours, and another process uses it
    assert len(faults(4, SLURM_JOB_GPUS="4-7")) == 3  # all that the job sees, numbered from 0


def test_a_rank_with_fewer_cores_than_allocated_is_a_fault() -> None:
    here = len(os.sched_getaffinity(0))
    assert nodefacts.cores(0).ok
    assert nodefacts.cores(here).ok
    few = nodefacts.cores(here + 1)
    assert not few.ok
    assert "SRUN_CPUS_PER_TASK" in few.text


def test_node_that_sends_no_report_is_counted(recipe: Path) -> None:
    with nodes(node("n0", 0, free_port(), str(recipe), "--timeout", "1")) as ends:
        assert ends[0][0] == 1
        assert "1 of 2 nodes sent no report within 1 s" in ends[0][1]


def test_node_that_cannot_connect_names_itself(recipe: Path) -> None:
    with nodes(node("n1", 1, free_port(), str(recipe), "--timeout", "1")) as ends:
        assert ends[0][0] == 1
        assert "BAD NODE n1: OSError: cannot reach 127.0.0.1:" in ends[0][1]


def test_missing_dataset_is_named(recipe: Path) -> None:
    with nodes(node("n0", 0, free_port(), str(recipe), "data.train=[{path: /nowhere/data}]", count=1)) as ends:
        assert ends[0][0] == 1
        assert "BAD NODE n0: /nowhere/data" in ends[0][1]


def test_clock_offset_is_measured(recipe: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Three nodes; this process plays one whose clock is 30 s ahead, and one whose clock is right."""
    port = free_port()
    first = node("n0", 0, port, str(recipe), count=3)
    late = SimpleNamespace(time=lambda: time.time() + 30, monotonic=time.monotonic, sleep=time.sleep)
    same = dict(nodefacts.versions(ROOT))
    report_to(("127.0.0.1", port), lambda: NodeReport("n2", equal=same), 60)
    monkeypatch.setattr(nodecheck, "time", late)
    report_to(("127.0.0.1", port), lambda: NodeReport("n1", equal=same), 60)
    with nodes(first) as ends:
        assert ends[0][0] == 1
        assert "BAD NODE n1: its clock is +30.0 s off the others'" in ends[0][1]
        assert "node n2: ok" in ends[0][1]


def test_node_with_another_version_is_named() -> None:
    """The odd one out is named, not the first node."""
    a, b, c = (NodeReport(name, equal={"torch": v}) for name, v in (("a", "2.12"), ("b", "2.13"), ("c", "2.13")))
    assert judge([a, b, c], ["a", "b", "c"], 2.0) == (
        {"a": ["torch is 2.12, elsewhere 2.13"]},
        [],
    )
    b.equal = {}
    assert judge([b, c, NodeReport("d", equal={"torch": "2.13"})], ["b", "c", "d"], 2.0) == (
        {"b": ["torch is missing, elsewhere 2.13"]},
        [],
    )
    assert list(judge([c], ["b", "c"], 2.0)[0]) == ["b"]


def test_fault_shared_by_all_nodes_blames_no_node(recipe: Path, tmp_path: Path) -> None:
    """The storage is gone, or the shared disk is full: excluding all nodes is not proposed."""
    port, gone = free_port(), "data.train=[{path: /nowhere/data}]"
    with nodes(*(node(f"n{r}", r, port, str(recipe), gone, "--disk-gb", "1e9") for r in (0, 1))) as ends:
        code, said = ends[0]
        assert code == 1
        assert "ALL 2 NODES: /nowhere/data" in said
        assert f"ALL 2 NODES: {tmp_path}" in said
        assert "1e+09 wanted" in said
        assert "all nodes report this fault" in said
        assert "node n1: not at fault" in said
        assert "BAD" not in said
        assert "--exclude" not in said


def test_dataset_that_one_node_cannot_read_blames_the_node() -> None:
    """The others can, so it is the node's."""
    a, b, c = (NodeReport(name) for name in "abc")
    b.shared_faults["s3://bucket/x"] = "s3://bucket/x: access denied"
    assert judge([a, b, c], ["a", "b", "c"], 2.0) == ({"b": ["s3://bucket/x: access denied"]}, [])
    a.shared_faults["s3://bucket/x"] = c.shared_faults["s3://bucket/x"] = "s3://bucket/x: access denied, asked 8 times"
    wrong, common = judge([a, b, c], ["a", "b", "c"], 2.0)
    assert (wrong, len(common)) == ({}, 1)
    assert not any("--exclude" in line for line in nodecheck.advice(wrong, common, 3))


def test_clocks_without_a_majority_blame_no_node() -> None:
    """Of two clocks that differ, either may be wrong; without a time server all may."""
    for clocks in ((0.0, 30.0), (0.0, 30.0, 60.0), (0.0, 0.0, 30.0, 30.0)):
        reports = [NodeReport(f"n{i}", clock=clock) for i, clock in enumerate(clocks)]
        wrong, common = judge(reports, [r.node for r in reports], 2.0)
        assert not wrong
        assert "the clocks do not agree: n0 +0.0 s, n1" in common[0]


def test_different_faults_on_all_nodes_exclude_none() -> None:
    said = nodecheck.advice({"a": ["card 0"], "b": ["card 3"]}, [], 2)
    assert said[:2] == ["BAD NODE a: card 0", "BAD NODE b: card 3"]
    assert "--exclude" not in said[2]
    assert "--exclude=a …" in nodecheck.advice({"a": ["card 0"]}, [], 2)[1]


def test_unshared_folder_is_a_fault(tmp_path: Path) -> None:
    assert not nodecheck.sees_token(str(tmp_path / "elsewhere" / "token")).ok
    (tmp_path / "token").touch()
    assert nodecheck.sees_token(str(tmp_path / "token")).ok


def test_full_disk_is_a_fault(tmp_path: Path) -> None:
    assert nodefacts.disk(tmp_path / "not" / "yet", 0.0).ok
    full = nodefacts.disk(tmp_path, 1e9)
    assert not full.ok
    assert "1e+09 wanted" in full.text
