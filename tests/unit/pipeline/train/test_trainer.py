"""The training loop on a fake engine: order, saves, stops, bad steps, end of data, validation, resumes."""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from pipeline.ranks.stop import REQUEUE
from pipeline.train.learning_rate import lr_at
from pipeline.train.trainer import Trainer, dropout_seed
from shards.errors import CheckpointError, TrainingError
from tests.support.fake_engine import Script, fake_trainer, targets_of
from tests.support.toy import toy_batch, toy_model


@pytest.fixture(autouse=True)
def one_rank() -> Iterator[None]:
    """A process group of one."""
    torch.distributed.init_process_group("gloo", store=torch.distributed.HashStore(), rank=0, world_size=1)
    yield
    torch.distributed.destroy_process_group()


def rows(trainer: Trainer, name: str) -> list[dict[str, Any]]:
    path = trainer.output / f"{name}.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def weights(trainer: Trainer) -> dict[str, torch.Tensor]:
    return {n: p.detach().clone() for n, p in trainer.engine.module.named_parameters()}


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(a[n], b[n]) for n in a)


# ------------------------------------------------------------------------------------------------------------ the loop


def test_a_stage_validates_updates_saves_and_ends_in_this_order(tmp_path: Path) -> None:
    script = Script()
    trainer = fake_trainer(tmp_path, script, steps=4, validate_every=2, save_every=2)
    assert trainer.train() == 0
    assert trainer.finished
    assert script.happened == [
        *("validate", "load 1", "update 1", "load 2", "update 2", "validate", "save 2"),
        *("load 3", "update 3", "load 4", "update 4", "save 4", "validate", "final 4", "finish uploads"),
    ]
    assert [r["step"] for r in rows(trainer, "train")] == [1, 2, 3, 4]
    assert [r["step"] for r in rows(trainer, "validation")] == [0, 2, 4]


def test_no_step_is_listed_twice_in_the_validations(tmp_path: Path) -> None:
    """After a kill before the first save; and where the data end at a step that was validated."""
    assert fake_trainer(tmp_path, steps=4, validate_every=2, save_every=4, stop_after=2).train() == 0
    trainer = fake_trainer(tmp_path, Script(steps=2), steps=4, validate_every=2, save_every=4)  # starts from step 0
    assert trainer.train() == 0
    assert trainer.finished
    assert [r["step"] for r in rows(trainer, "validation")] == [0, 2]


@pytest.mark.parametrize(
    ("ends", "saves"), [((), [3, 6, 7]), ((2, 6), [2, 3, 6, 7])], ids=["save_every", "and ends of epochs"]
)
def test_saves_come_every_save_every_steps_at_ends_of_epochs_and_at_the_end(
    tmp_path: Path, ends: tuple[int, ...], saves: list[int]
) -> None:
    script = Script(epoch_ends=ends, validation=False)
    fake_trainer(tmp_path, script, steps=7, save_every=3).train()
    assert [int(h.split()[1]) for h in script.happened if h.startswith("save")] == saves


def test_a_checkpoint_holds_the_merged_data_state_and_the_figures_of_its_own_weights(tmp_path: Path) -> None:
    trainer = fake_trainer(tmp_path, steps=4, validate_every=2, save_every=1)
    trainer.train()
    states = [state for state, _ in trainer.checkpoints.kept]
    assert [s.step for s in states] == [1, 2, 3, 4]
    assert [s.plan["next"] for s in states] == [1, 2, 3, 4]
    assert all(s.plan["merged"] for s in states)
    assert [s.validation is not None for s in states] == [False, True, False, False]
    assert states[1].validation["loss"] == rows(trainer, "validation")[1]["loss"]
    assert [s.health["updates"] for s in states] == [1, 2, 3, 4]


def test_the_loss_is_per_target_token_of_the_whole_step(tmp_path: Path) -> None:
    trainer = fake_trainer(tmp_path, Script(validation=False), steps=1)
    model, batches = toy_model(), [toy_batch(0, m) for m in range(3)]
    total = sum(model(**b.model_inputs()).loss for b in batches) / targets_of(0)
    total.backward()
    total = total.detach()
    expected = {n: p.detach() - 1e-3 * p.grad for n, p in model.named_parameters() if p.requires_grad}
    trainer.train()
    (row,) = rows(trainer, "train")
    assert row["targets"] == row["positions"] == targets_of(0)
    assert row["loss"] == pytest.approx(float(total))
    assert row["audio_seconds"] == 3.0
    after = weights(trainer)
    for name, value in expected.items():
        torch.testing.assert_close(after[name], value)
    by_mode = {b.mode: float(model(**b.model_inputs()).loss.detach()) / b.num_targets for b in batches}
    assert row["losses"] == {f"toy/{m}": pytest.approx(v) for m, v in by_mode.items()}


def test_each_update_has_the_learning_rate_of_its_step(tmp_path: Path) -> None:
    trainer = fake_trainer(tmp_path, Script(validation=False), steps=6)
    trainer.train()
    rates = [lr_at(step, trainer.recipe.optimizer, 6) for step in range(6)]
    assert trainer.engine.rates == rates == [r["lr"] for r in rows(trainer, "train")]


def test_a_status_line_comes_every_log_every_steps_and_at_the_end(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    fake_trainer(tmp_path, Script(validation=False), steps=5, log_every=2).train()
    lines = [r.getMessage() for r in caplog.records if r.getMessage().startswith("step ")]
    assert [line.split()[1] for line in lines] == ["2/5", "4/5", "5/5"]
    assert "save " in lines[0], "seconds that training stood still for saving"


def test_one_batch_repeats_the_first_global_step(tmp_path: Path) -> None:
    script = Script(validation=False)
    trainer = fake_trainer(tmp_path, script, steps=4, overfit_one_batch=True)
    trainer.train()
    assert [h for h in script.happened if h.startswith("load")] == ["load 1"]
    assert {r["targets"] for r in rows(trainer, "train")} == {targets_of(0)}


# --------------------------------------------------------------------------------------------------------------- stops


def test_a_stop_before_the_first_step_does_nothing(tmp_path: Path) -> None:
    script = Script()
    script.stop.signal = 15
    trainer = fake_trainer(tmp_path, script)
    assert trainer.train() == REQUEUE
    assert script.happened == ["finish uploads"]
    assert not trainer.finished


def test_a_stop_ends_the_run_after_its_step_which_is_saved(tmp_path: Path) -> None:
    script = Script(stop_loading=3)
    trainer = fake_trainer(tmp_path, script, steps=6, validate_every=3, save_every=100)
    assert trainer.train() == REQUEUE
    assert script.happened[-3:] == ["update 3", "save 3", "finish uploads"], "no validation: the time is short"
    assert not trainer.finished


def test_a_stop_while_validating_saves_and_leaves_the_validation_to_the_resumed_run(tmp_path: Path) -> None:
    script = Script(stop_loading=None)
    first = fake_trainer(tmp_path, script, steps=6, validate_every=2, save_every=100)
    assert not first.validate()
    script.stop_validating = True
    assert first.train() == REQUEUE
    assert script.happened[-3:] == ["validate", "save 2", "finish uploads"]
    assert [r["step"] for r in rows(first, "validation")] == [0]
    again = Script()
    resumed = fake_trainer(tmp_path, again, first.checkpoints, steps=6, validate_every=2, save_every=100)
    assert resumed.train() == 0
    assert again.happened[:3] == ["resume 2", "validate", "load 3"]
    assert [r["step"] for r in rows(resumed, "validation")] == [0, 2, 4, 6]


def test_a_stop_in_the_last_validation_leaves_the_stage_unfinished(tmp_path: Path) -> None:
    script = Script(stop_validating=True)
    trainer = fake_trainer(tmp_path, script, steps=2, validate_every=100)
    trainer.validated = 0, {"loss": 1.0}
    assert trainer.train() == REQUEUE
    assert script.happened[-3:] == ["save 2", "validate", "finish uploads"]
    assert not trainer.finished


def test_a_rehearsal_stops_early_saved_but_not_done(tmp_path: Path) -> None:
    script = Script(validation=False)
    trainer = fake_trainer(tmp_path, script, stop_after=2, steps=6, save_every=100)
    assert trainer.train() == 0
    assert script.happened[-2:] == ["save 2", "finish uploads"]
    assert not trainer.finished
    assert trainer.engine.rates == [lr_at(step, trainer.recipe.optimizer, 6) for step in range(2)]


def test_a_run_whose_uploads_do_not_finish_is_queued_again(tmp_path: Path) -> None:
    assert fake_trainer(tmp_path, Script(uploads_finish=False, validation=False), steps=1).train() == REQUEUE


# ----------------------------------------------------------------------------------------------------------- bad steps


def test_a_step_that_is_not_finite_changes_no_weight_and_is_reported(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    script = Script(bad=[2], validation=False)
    trainer = fake_trainer(tmp_path, script, steps=3, save_every=1)
    assert trainer.train() == 0
    (_, first), (_, second), (_, third) = trainer.checkpoints.kept
    assert same(first, second)
    assert not same(second, third)
    log = rows(trainer, "train")
    assert [r["skipped"] for r in log] == [False, True, False]
    assert log[1]["loss"] is None
    assert log[1]["grad_norm"] is None
    (event,) = rows(trainer, "events")
    assert (event["step"], event["event"]) == (2, "skipped")
    assert [b["keys"] for b in event["micro_batches"]] == [["s1-2"]]
    assert "step 2: skipped" in caplog.text
    assert "look at s1-2 of rank 0" in caplog.text
    health = trainer.checkpoints.kept[-1][0].health
    assert (health["updates"], health["skipped"], health["in_a_row"]) == (2, 1, 0)


def test_a_micro_batch_that_is_not_finite_spoils_the_gradients_of_all(tmp_path: Path) -> None:
    """Also of those whose own loss is finite: on other ranks there may be no other."""
    trainer = fake_trainer(tmp_path, Script(validation=False), steps=1)
    batches = [toy_batch(0, m) for m in range(3)]
    batches[0].frames.mul_(math.nan)
    before = weights(trainer)
    record, _ = trainer.update(batches, 0.0)
    assert record.skipped
    assert same(before, weights(trainer))


@pytest.mark.parametrize(("bad", "ends"), [([2, 3], True), ([2, 4], False)])
def test_too_many_bad_steps_in_a_row_end_the_run(tmp_path: Path, bad: list[int], ends: bool) -> None:
    trainer = fake_trainer(tmp_path, Script(bad=bad, validation=False), steps=5, max_bad_steps=2)
    if not ends:
        assert trainer.train() == 0
        return
    with pytest.raises(TrainingError, match=r"2 steps in a row were skipped, up to step 3: .* look at s2-2 of rank 0"):
        trainer.train()


def test_a_spike_is_reported_and_its_worst_micro_batch_written(tmp_path: Path) -> None:
    script = Script(spikes=[22], validation=False)
    trainer = fake_trainer(tmp_path, script, steps=22, save_bad_batches=True)
    trainer.train()
    (event,) = [e for e in rows(trainer, "events") if e["step"] == 22]
    assert event["event"] == "spike"
    assert event["micro_batches"][0]["keys"] == ["s21-2"]
    (saved,) = (tmp_path / "bad").glob("step-00000022-*")
    assert saved.name == "step-00000022-batch-0002.pt"


def test_a_failed_save_in_the_background_is_raised_in_the_next_step(tmp_path: Path) -> None:
    script = Script(save_fails_after=2, validation=False)
    with pytest.raises(CheckpointError, match="no space left"):
        fake_trainer(tmp_path, script, steps=6, save_every=2).train()
    assert script.happened[-1] == "load 3"


# --------------------------------------------------------------------------------------------- end of data, resumption


def test_a_stage_whose_data_end_saves_validates_and_is_done(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    script = Script(steps=3)
    trainer = fake_trainer(tmp_path, script, steps=10, save_every=100, validate_every=100)
    assert trainer.train() == 0
    assert script.happened[-4:] == ["save 3", "validate", "final 3", "finish uploads"]
    assert trainer.finished
    assert "all datasets are exhausted after step 3, before trainer.max_steps" in caplog.text


def test_a_step_that_is_saved_is_not_saved_again_at_the_end_of_the_data(tmp_path: Path) -> None:
    script = Script(steps=3, validation=False)
    fake_trainer(tmp_path, script, steps=10, save_every=3).train()
    assert [h for h in script.happened if h.startswith("save")] == ["save 3"]


def test_a_resumed_run_is_equal_to_one_without_a_stop(tmp_path: Path) -> None:
    settings = {"steps": 6, "validate_every": 3, "save_every": 3}
    whole = fake_trainer(tmp_path / "whole", Script(bad=[2]), **settings)
    whole.train()
    first = fake_trainer(tmp_path / "cut", Script(bad=[2], stop_loading=4), **settings)
    assert first.train() == REQUEUE
    again = Script(bad=[2])
    second = fake_trainer(tmp_path / "cut", again, first.checkpoints, **settings)
    assert second.train() == 0
    assert again.happened[:2] == ["resume 4", "load 5"]
    assert same(weights(whole), weights(second))
    assert second.health == whole.health
    one, other = ([(r["step"], r["loss"], r["lr"]) for r in rows(t, "train")] for t in (whole, second))
    assert one == other
    one, other = ([(r["step"], r["loss"]) for r in rows(t, "validation")] for t in (whole, second))
    assert one == other


def test_what_was_validated_before_the_checkpoint_is_not_validated_again(tmp_path: Path) -> None:
    settings = {"steps": 6, "validate_every": 2, "save_every": 2}
    first = fake_trainer(tmp_path, Script(), stop_after=2, **settings)
    first.train()
    again = Script()
    fake_trainer(tmp_path, again, first.checkpoints, **settings).train()
    assert again.happened[:3] == ["resume 2", "load 3", "update 3"]


def test_lines_of_steps_after_the_checkpoint_are_dropped_on_resume(tmp_path: Path) -> None:
    first = fake_trainer(tmp_path, Script(validation=False), stop_after=2, steps=6, save_every=2)
    first.train()
    first.logs["train"].write({"step": 3, "loss": 99.0})
    second = fake_trainer(tmp_path, Script(validation=False), first.checkpoints, steps=6, save_every=2)
    second.train()
    assert [r["step"] for r in rows(second, "train")] == [1, 2, 3, 4, 5, 6]
    assert max(r["loss"] for r in rows(second, "train")) < 99


def test_dropout_seeds_differ_by_every_part_of_their_key() -> None:
    seeds = {dropout_seed(s, t, m) for s in (1, 2) for t in range(50) for m in range(8)}
    assert len(seeds) == 2 * 50 * 8
    assert all(0 <= s < 2**63 for s in seeds)
    assert dropout_seed(1, 23, 4) != dropout_seed(1, 2, 34)
