from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch

from pipeline.ranks.launch import Ranks
from pipeline.train.spikes import HORIZON, WARM, Average, Health, save_batch, suspects
from shards.errors import TrainingError
from tests.support.toy import toy_batch

ALONE = Ranks(0, 1, 0, torch.device("cpu"))


def usual(health: Health, steps: int) -> None:
    for step in range(steps):
        assert health.judge(2.0 + 0.1 * math.sin(step), 1.0 + 0.1 * math.cos(step), True) is None


def test_a_step_without_update_is_counted_until_the_next_update() -> None:
    health = Health()
    usual(health, 3)
    assert health.judge(math.nan, math.nan, False) == "skipped"
    assert health.judge(2.0, math.nan, False) == "skipped"
    assert (health.updates, health.skipped, health.in_a_row) == (3, 2, 2)
    usual(health, 1)
    assert (health.updates, health.skipped, health.in_a_row) == (4, 2, 0)


@pytest.mark.parametrize(("loss", "norm"), [(2.0 + 0.07 * 9, 1.0), (2.0, 1.0 + 0.07 * 9)])
def test_a_leap_of_more_than_six_deviations_is_a_spike(loss: float, norm: float) -> None:
    health = Health()
    usual(health, 2 * HORIZON)
    assert health.judge(2.0 + 0.07 * 4, 1.0, True) is None
    assert health.judge(loss, norm, True) == "spike"
    assert health.judge(1.0, 0.1, True) is None  # a fall is no spike
    assert health.judge(loss, norm, True) == "spike"  # the first does not hide the second


def test_no_step_is_a_spike_during_warm_up() -> None:
    health = Health()
    usual(health, WARM - 1)
    assert health.judge(100.0, 100.0, True) is None


def test_the_average_adapts_to_a_new_level() -> None:
    health = Health()
    usual(health, HORIZON)
    verdicts = [health.judge(6.0, 1.0, True) for _ in range(HORIZON)]
    assert verdicts[0] == "spike"
    assert verdicts[-1] is None


def test_mean_and_variance_of_the_first_values_are_the_plain_ones() -> None:
    average, values = Average(), [3.0, 1.0, 4.0, 1.0, 5.0]
    for v in values:
        average.add(v)
    mean = sum(values) / 5
    assert average.mean == pytest.approx(mean)
    assert average.variance == pytest.approx(sum((v - mean) ** 2 for v in values) / 5)


def test_a_state_goes_through_json_unchanged() -> None:
    health = Health()
    usual(health, 30)
    again = Health.from_state(json.loads(json.dumps(health.state_dict())))
    assert again == health
    assert health.judge(2.5, 1.0, True) == again.judge(2.5, 1.0, True)
    assert again == health


def test_an_update_with_a_number_that_is_not_finite_is_an_error() -> None:
    with pytest.raises(TrainingError, match="invalid"):
        Health().judge(math.nan, 1.0, True)


def test_suspects_of_a_skipped_step_are_those_that_are_not_finite() -> None:
    batches = [toy_batch(1, 0), toy_batch(1, 1), toy_batch(1, 2, weight=0.0)]
    losses = [torch.tensor(3.0), torch.tensor(math.inf), torch.tensor(math.nan)]
    assert [s.keys for s in suspects(ALONE, batches, losses, "skipped")] == [("s1-1",)]
    assert suspects(ALONE, batches, losses, "skipped")[0].row()["loss"] == "inf"
    finite = [torch.tensor(3.0), torch.tensor(100.0), torch.tensor(0.0)]
    assert [s.keys for s in suspects(ALONE, batches, finite, "skipped")] == [("s1-1",), ("s1-0",)]


def test_a_saved_micro_batch_repeats_its_forward_pass(tmp_path: Path) -> None:
    from tests.support.toy import toy_model

    model, batch = toy_model(dropout=0.3), toy_batch(3, 1)
    torch.manual_seed(77)
    loss = model(**batch.model_inputs()).loss
    (suspect,) = suspects(ALONE, [batch], [loss.detach()], "spike")
    path = save_batch(tmp_path / "bad", 4, suspect, batch.model_inputs(), 77)
    saved = torch.load(path, weights_only=True)
    assert (saved["step"], saved["keys"]) == (4, ["s3-1"])
    torch.manual_seed(saved["seed"])
    assert torch.equal(model(**saved["inputs"]).loss, loss)


def test_no_more_than_so_many_files_are_written(tmp_path: Path) -> None:
    (suspect,) = suspects(ALONE, [toy_batch(3, 1)], [torch.tensor(1.0)], "spike")
    assert [save_batch(tmp_path, n, suspect, {}, 0, most=2) is None for n in range(3)] == [False, False, True]
