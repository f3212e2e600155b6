"""A rank is killed: the others end with advice, and the same command gives the run that was not disturbed."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from pipeline.ranks.stop import FAILED
from tests.support.distributed import report, run_distributed, run_ranks
from tests.support.faults import SAVE_POINTS, STEPS, Trouble, checkpoints, same_run, train


@pytest.fixture(scope="module")
def straight(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run without any fault."""
    folder = tmp_path_factory.mktemp("straight")
    run_distributed(train, 2, folder=str(folder))
    return folder


def kill(folder: Path, trouble: Trouble, **settings: object) -> str:
    """Let it happen; what the other rank said."""
    fates = run_ranks(train, 2, 60, folder=str(folder), trouble=trouble, **settings)
    assert fates[trouble.rank].code == -signal.SIGKILL, report(fates)
    assert fates[1 - trouble.rank].code == FAILED, report(fates)
    return fates[1 - trouble.rank].output


@pytest.mark.parametrize("moment", ["kill before backward", "kill after backward"])
def test_kill_of_a_rank(straight: Path, tmp_path: Path, moment: str) -> None:
    said = kill(tmp_path, Trouble(moment, step=5))
    assert "lost the connection to another rank" in said
    assert "Start the same command again: it resumes from step 3." in said
    run_distributed(train, 2, folder=str(tmp_path))
    assert same_run(tmp_path, straight)


@pytest.mark.parametrize("background", ["never", "always"])
@pytest.mark.parametrize("point", SAVE_POINTS)
def test_kill_inside_a_save(straight: Path, tmp_path: Path, point: str, background: str) -> None:
    """Rank 0 commits; the first checkpoint that is rotated away is that of step 3, when that of step 9 is there."""
    rotation = point == "in rotation"
    trouble = Trouble(point, step=STEPS if rotation else 6, rank=0)
    kill(tmp_path, trouble, save_in_background=background)
    assert checkpoints(tmp_path) == ([6, 9] if rotation else [3])
    (output, _) = run_distributed(train, 2, folder=str(tmp_path), save_in_background=background)
    assert f"resumed from {tmp_path / 'checkpoints'}/step-0000000{9 if rotation else 3}" in output
    assert same_run(tmp_path, straight)
    assert checkpoints(tmp_path) == [6, 9]
    assert not list((tmp_path / "checkpoints").glob(".*")), "the kill's leftovers are still there"
