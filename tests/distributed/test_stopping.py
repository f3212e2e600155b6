"""What the ranks do when one of them is signalled, dies, or computes nonsense."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

from pipeline.ranks.stop import FAILED, REQUEUE
from tests.support.distributed import report, run_distributed, run_ranks


def _train(folder: str, trouble: str = "", at: int = 4, victim: int = 1) -> int:
    """The toy run; at the start of step ``at`` something happens to one rank."""
    from pipeline.ranks.launch import init_distributed
    from pipeline.ranks.stop import guarded
    from pipeline.train.run_stage import advice
    from tests.support.toy import ToyData, toy_recipe, toy_trainer

    load = ToyData.train

    def troubled(self: ToyData, state: dict | None) -> object:
        for number, step in enumerate(load(self, state), start=1 + (state["next"] if state else 0)):
            if number == at and self.ranks.rank == victim:
                make_trouble(trouble, step)
            yield step

    ToyData.train = troubled  # type: ignore[method-assign, assignment]

    def run() -> int:
        trainer = toy_trainer(toy_recipe(Path(folder)), init_distributed(30))
        trainer.run.stop.install()
        return trainer.train()

    return guarded(run, lambda: advice(Path(folder)))


def make_trouble(kind: str, step: object) -> None:
    if kind == "signal":
        os.kill(os.getpid(), signal.SIGUSR1)
        os.kill(os.getpid(), signal.SIGTERM)
    elif kind == "death":
        os.kill(os.getpid(), signal.SIGKILL)
    elif kind == "nan":
        step.micro_batches[0].frames.fill_(float("nan"))  # type: ignore[attr-defined]


def steps(folder: Path) -> list[int]:
    return [json.loads(line)["step"] for line in (folder / "train.jsonl").read_text().splitlines()]


def test_signal_to_one_rank_stops_all_after_the_same_step(tmp_path: Path) -> None:
    fates = run_ranks(_train, 2, 60, folder=str(tmp_path), trouble="signal")
    assert [f.code for f in fates] == [REQUEUE, REQUEUE], report(fates)
    assert (tmp_path / "checkpoints" / "step-00000004" / "manifest.json").exists()
    assert not (tmp_path / "done").exists()
    run_distributed(_train, 2, folder=str(tmp_path))
    assert steps(tmp_path) == [1, 2, 3, 4, 5, 6]
    assert (tmp_path / "done").exists()


def test_death_of_a_rank_ends_the_other_with_advice(tmp_path: Path) -> None:
    fates = run_ranks(_train, 2, 60, folder=str(tmp_path), trouble="death")
    assert fates[1].code == -signal.SIGKILL, report(fates)
    assert fates[0].code == FAILED, report(fates)
    assert "lost the connection to another rank" in fates[0].output
    assert "Start the same command again: it resumes from step 3." in fates[0].output
    run_distributed(_train, 2, folder=str(tmp_path))
    assert steps(tmp_path) == [1, 2, 3, 4, 5, 6]
