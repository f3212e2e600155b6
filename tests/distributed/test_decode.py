"""Decoding by real processes: the same bytes from one, from two, and after a kill -9 in between."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pipeline.evaluation.scores import score_decoded
from tests.support.datasets import make_dataset
from tests.support.distributed import CPU, ROOT, report, run_command
from tests.support.training import DIM, finished_run, make_parts

OPTIONS = ["--modes", "no,over", "--n-ov", "1-2,3-4", "--batch", "2", "--max-new-tokens", "40"]
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("parts")
    make_parts(folder)
    make_dataset(folder / "test", samples=9, speakers_per_sample=(1, 2), dim=DIM, seed=9)
    finished_run(folder)
    return folder


@pytest.fixture(scope="module")
def alone(parts: Path) -> Path:
    fate = run_command([sys.executable, *command(parts, parts / "alone")])
    assert fate.code == 0, report([fate])
    return parts / "alone"


def command(parts: Path, out: Path) -> list[str]:
    return ["-m", "pipeline.decode.test_set", str(parts / "run"), str(parts / "test"), str(out), *OPTIONS]


def texts(folder: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in folder.glob("*.jsonl")}


def test_two_ranks_write_the_same_as_one(parts: Path, alone: Path):
    fate = run_command([*TORCHRUN, *command(parts, parts / "two")])
    assert fate.code == 0, report([fate])
    assert sorted(texts(alone)) == ["no.jsonl", "over-1-2.jsonl", "over-3-4.jsonl"]
    assert texts(parts / "two") == texts(alone)
    assert [r["n_ov"] for r in score_decoded(parts / "two")] == [None, "1-2", "3-4"]


def test_killed_and_restarted_it_writes_the_same(parts: Path, alone: Path):
    out = parts / "killed"
    process = subprocess.Popen(
        [sys.executable, *command(parts, out)], cwd=ROOT, env={**os.environ, **CPU}, start_new_session=True
    )
    try:
        end = time.monotonic() + 100
        while time.monotonic() < end and sum(p.stat().st_size for p in (out / "parts").glob("*.jsonl")) == 0:
            assert process.poll() is None
            time.sleep(0.005)
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    left = sum(p.read_bytes().count(b"\n") for p in (out / "parts").glob("*.jsonl"))
    assert 0 < left < 27
    assert not (out / "done").exists()
    fate = run_command([*TORCHRUN, *command(parts, out)])
    assert fate.code == 0, report([fate])
    assert texts(out) == texts(alone)
