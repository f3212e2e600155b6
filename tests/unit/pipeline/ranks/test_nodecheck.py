"""Node checks before a run. Nodes are processes here, over real sockets."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
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
SMI = "#!/bin/sh\necho 'NVIDIA H100 80GB HBM3, 570.1, {used}, {errors}, {slow}'\n"


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


def smi(folder: Path, used: int = 3, errors: int = 0, slow: str = "Not Active") -> Path:
    """A folder with an nvidia-smi that reports this of one GPU."""
    folder.mkdir()
    (folder / "nvidia-smi").write_text(SMI.format(used=used, errors=errors, slow=slow))
    (folder / "nvidia-smi").chmod(0o755)
    return folder


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
    assert not list((recipe.parent / "run").iterdir()), "the probe file was left behind"


def test_node_with_a_bad_gpu_is_named(recipe: Path, tmp_path: Path) -> None:
    port, path = free_port(), os.environ["PATH"]
    good, bad = smi(tmp_path / "good"), smi(tmp_path / "bad", errors=7, used=9000, slow="Active")
    cards = {"SLURM_GPUS_ON_NODE": "1"}
    first = node("n0", 0, port, str(recipe), PATH=f"{good}:{path}", **cards)
    second = node("n1", 1, port, str(recipe), PATH=f"{bad}:{path}", **cards)
    with nodes(first, second) as ends:
        code, said = ends[0]
        assert code == 1
        assert "node n0: ok" in said
        for fault in ("7 uncorrected memory errors", "is slowed down", "9000 MiB in use by another process"):
            assert any(line.startswith("BAD NODE n1: card 0") and fault in line for line in said.splitlines()), said
        assert "--exclude=n1" in said


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
