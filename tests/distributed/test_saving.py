"""Two ranks save and copy away, and one of them has trouble with it."""

from __future__ import annotations

import os
import time
from pathlib import Path

from pipeline.checkpoint.mirror import Mirror
from pipeline.ranks.stop import FAILED, REQUEUE
from tests.support.distributed import report, run_distributed, run_ranks


def _train_zero2(folder: str) -> int:
    """Its slices are gathered by all ranks together."""
    from pipeline.ranks.launch import init_distributed
    from pipeline.ranks.stop import guarded
    from tests.support.toy import toy_recipe, toy_trainer

    recipe = toy_recipe(Path(folder), deepspeed="ds_configs/zero2.json")
    return guarded(lambda: toy_trainer(recipe, init_distributed(30)).train(), str)


def _copy_slowly(folder: str, there: str, seconds: float, stop: bool = False) -> int:
    """Each copy of rank 1's file takes a while; perhaps rank 1 is asked to stop in the last step."""
    from pipeline.ranks.launch import init_distributed
    from tests.support.toy import ToyData, toy_recipe, toy_trainer

    put, load = Mirror.put_rank_file, ToyData.train

    def slow(self: Mirror, path: Path, rank: int) -> None:
        time.sleep(seconds * rank)
        put(self, path, rank)

    Mirror.put_rank_file = slow  # type: ignore[method-assign]
    recipe = toy_recipe(Path(folder), save_every=1, upload=there)
    trainer = toy_trainer(recipe, init_distributed(30))
    trainer.run.stop.margin = 2.0

    def stopped(self: ToyData, state: dict | None) -> object:
        for number, step in enumerate(load(self, state), 1):
            if stop and number == 6 and self.ranks.rank == 1:
                trainer.run.stop.signal = 15
            yield step

    ToyData.train = stopped  # type: ignore[method-assign, assignment]
    trainer.steps = trainer.training_steps()
    code = trainer.train()
    if stop:
        os._exit(code)  # as run_stage does: the thread is still at it
    return code


def test_error_of_one_rank_in_preparing_a_save_is_raised_on_all(tmp_path: Path) -> None:
    (tmp_path / "checkpoints").touch()  # where a folder has to be made
    fates = run_ranks(_train_zero2, 2, 90, folder=str(tmp_path))
    assert [f.code for f in fates] == [FAILED, FAILED], report(fates)
    assert all("rank 0: [Errno" in f.output and "checkpoints" in f.output for f in fates), report(fates)


def test_last_checkpoint_is_mirrored_before_the_run_ends(tmp_path: Path) -> None:
    there = str(tmp_path / "there")
    outputs = run_distributed(_copy_slowly, 2, folder=str(tmp_path / "run"), there=there, seconds=1.0)
    assert "that of step 1 is still being copied" in outputs[0]
    assert Mirror(f"{there}/{tmp_path.name}/run").names()[-1] == "step-00000006"


def test_stop_waits_for_copies_at_most_half_of_its_margin(tmp_path: Path) -> None:
    arguments = {"folder": str(tmp_path / "run"), "there": str(tmp_path / "there"), "seconds": 60.0, "stop": True}
    fates = run_ranks(_copy_slowly, 2, 55, **arguments)
    assert [f.code for f in fates] == [REQUEUE, REQUEUE], report(fates)
    assert "no time left to copy the last checkpoint" in fates[0].output
    assert (tmp_path / "run" / "checkpoints" / "step-00000006" / "manifest.json").exists()
