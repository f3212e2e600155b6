"""A rank is asked to stop: all finish the step, save, and leave with the code on which a batch script requeues."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from pipeline.ranks.stop import FAILED, REQUEUE
from tests.support.distributed import report, run_distributed, run_ranks
from tests.support.faults import Trouble, checkpoints, history, rows, same_run, train


@pytest.fixture(scope="module")
def straight(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("straight")
    run_distributed(train, 2, folder=str(folder))
    return folder


@pytest.mark.parametrize(
    ("kind", "made"),
    [("stop", 5), ("stop, and again in the save", 5), ("stop in validation", 0), ("stop at start", 0)],
)
@pytest.mark.parametrize("rank", [0, 1])
def test_signal_to_one_rank(straight: Path, tmp_path: Path, kind: str, made: int, rank: int) -> None:
    """It comes during step 4, a save, a validation, the start; the flag travels with the next step's numbers."""
    fates = run_ranks(train, 2, 60, folder=str(tmp_path), trouble=Trouble(kind, step=4, rank=rank))
    assert [f.code for f in fates] == [REQUEUE, REQUEUE], report(fates)
    assert checkpoints(tmp_path)[-1:] == ([made] if made else [])
    assert f"stopped after step {made}" in fates[0].output
    run_distributed(train, 2, folder=str(tmp_path))
    assert same_run(tmp_path, straight)
    assert [r["step"] for r in rows(tmp_path, "validation")] == [0, 3, 6, 9]


def test_time_limit(straight: Path, tmp_path: Path) -> None:
    """The limit is over at once; the run that comes after it has none."""
    fates = run_ranks(train, 2, 60, folder=str(tmp_path), time_limit_seconds=0.0)
    assert [f.code for f in fates] == [REQUEUE, REQUEUE], report(fates)
    run_distributed(train, 2, folder=str(tmp_path))
    assert same_run(tmp_path, straight)


def test_rank_that_hangs(tmp_path: Path) -> None:
    """Both ranks write their stacks: one sleeps, one waits for it."""
    began = time.monotonic()
    fates = run_ranks(train, 2, 60, folder=str(tmp_path), trouble=Trouble("sleep", step=5), timeout_seconds=4.0)
    assert [f.code for f in fates] == [FAILED, FAILED], report(fates)
    assert time.monotonic() - began < 50, "the collective's own limit ended it"
    for rank, fate in enumerate(fates):
        assert f"[rank {rank}] TrainingError: no progress for 4 s during step 5" in fate.output, report(fates)
        assert "Start the same command again: it resumes from step 3." in fate.output
    stacks = [(tmp_path / "stacks" / f"rank-0000{r}.txt").read_text() for r in (0, 1)]
    assert (
        "in <lambda>" in stacks[1].split("Current thread")[-1] or "time.sleep" in stacks[1] or "troubled" in stacks[1]
    )
    assert "troubled" not in stacks[0]
    assert [s for s, *_ in history(tmp_path)] == [1, 2, 3, 4]


def test_straggler_is_named(tmp_path: Path) -> None:
    (output, _) = run_distributed(train, 2, folder=str(tmp_path), trouble=Trouble("lag"), steps=4)
    assert "WARNING rank 1 on " in output
    assert "is a straggler" in output
    own = [r["own_seconds"] for r in rows(tmp_path, "train")][1:3]
    assert sum(slow - fast for fast, slow in own) > 0.5, own
