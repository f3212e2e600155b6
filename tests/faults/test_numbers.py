"""Losses and gradients that are not finite, or leap, on one rank."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from pipeline.ranks.stop import FAILED
from tests.support.distributed import report, run_distributed, run_ranks
from tests.support.faults import STEPS, Trouble, history, rows, same_run, train


@pytest.mark.parametrize("kind", ["nan loss", "infinite gradient"])
@pytest.mark.parametrize("deepspeed", ["zero3_cpu", "zero3", "zero2"])
def test_nonfinite_step_is_skipped_by_all_ranks(tmp_path: Path, kind: str, deepspeed: str) -> None:
    """The weights stay what they were, the data continue, and a run that is cut afterwards is the same to the bit."""
    config = {"deepspeed": f"ds_configs/{deepspeed}.json", "save_every": 4}
    trouble = Trouble(kind, step=5, rank=1)
    (output, _) = run_distributed(train, 2, folder=str(tmp_path / "a"), trouble=trouble, **config)
    log = rows(tmp_path / "a", "train")
    assert [r["skipped"] for r in log] == [s == 5 for s in range(1, STEPS + 1)]
    assert log[4]["grad_norm"] is None
    (event,) = [e for e in rows(tmp_path / "a", "events") if e["event"] != "straggler"]
    assert (event["step"], event["event"]) == (5, "skipped")
    suspected = {key for m in event["micro_batches"] for key in m["keys"]}
    assert "s4-1" in suspected
    assert kind == "infinite gradient" or suspected == {"s4-1"}
    assert "WARNING step 5: skipped" in output
    cut = {**config, "save_every": 5}
    run = tmp_path / "b"
    run_distributed(train, 2, folder=str(run), trouble=trouble, **cut)
    shutil.rmtree(run / "checkpoints" / "step-00000009")
    (run / "done").unlink()
    run_distributed(train, 2, folder=str(run), **cut)
    assert same_run(run, tmp_path / "a")


@pytest.mark.parametrize("deepspeed", ["zero3_cpu", "zero2"])
def test_first_step_may_be_skipped_and_saved(tmp_path: Path, deepspeed: str) -> None:
    """Then DeepSpeed has no state of Adam yet."""
    config = {"deepspeed": f"ds_configs/{deepspeed}.json", "save_every": 1}
    trouble = Trouble("nan loss", step=1, rank=1)
    run_distributed(train, 2, folder=str(tmp_path / "a"), trouble=trouble, keep_last=100, **config)
    assert rows(tmp_path / "a", "train")[0]["skipped"]
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    for checkpoint in sorted((tmp_path / "b" / "checkpoints").iterdir())[1:]:
        shutil.rmtree(checkpoint)
    (tmp_path / "b" / "done").unlink()
    run_distributed(train, 2, folder=str(tmp_path / "b"), **config)
    assert same_run(tmp_path / "b", tmp_path / "a")


def test_skipped_step_does_not_change_weights(tmp_path: Path) -> None:
    """Validation before and after it: the same loss to the last bit."""
    run_distributed(
        train, 2, folder=str(tmp_path), trouble=Trouble("nan loss", step=5), validate_every=1, save_every=100
    )
    losses = {r["step"]: r["loss"] for r in rows(tmp_path, "validation")}
    assert losses[4] == losses[5]
    assert len({losses[s] for s in range(STEPS + 1)}) == STEPS


def test_consecutive_skipped_steps_end_the_run(tmp_path: Path) -> None:
    fates = run_ranks(train, 2, 60, folder=str(tmp_path), trouble=Trouble("every loss is nan", step=5), max_bad_steps=3)
    assert [f.code for f in fates] == [FAILED, FAILED], report(fates)
    for fate in fates:
        assert "3 steps in a row were skipped, up to step 7" in fate.output
        assert "s6-1" in fate.output
    assert [s for s, *_ in history(tmp_path)] == [1, 2, 3, 4, 5, 6]


def test_spike_is_logged_with_its_samples_and_its_batch_is_written(tmp_path: Path) -> None:
    import torch

    trouble = Trouble("leap", step=25)
    run_distributed(train, 2, folder=str(tmp_path), trouble=trouble, steps=26, save_bad_batches=True, save_every=100)
    (event,) = [e for e in rows(tmp_path, "events") if e["event"] == "spike"]
    assert (event["step"], event["event"]) == (25, "spike")
    assert event["micro_batches"][0]["keys"] == ["s24-1"]
    saved = torch.load(tmp_path / "bad" / "step-00000025-batch-0001.pt", weights_only=True)
    assert saved["keys"] == ["s24-1"]
    assert saved["inputs"].keys() == {"frames", "speaker", "target_ids", "weight"}
    assert not rows(tmp_path, "train")[24]["skipped"]
