"""Learning rate, trainable set and optimizer of a stage."""

from __future__ import annotations

import itertools
from types import SimpleNamespace

import pytest

from pipeline.recipe.schema import OptimizerConfig
from pipeline.stages import STAGES
from pipeline.train.engine import check_optimizer, trainable_table
from pipeline.train.learning_rate import lr_at
from shards.errors import TrainingError

PAPER = OptimizerConfig()


def test_learning_rate_follows_the_formula() -> None:
    steps = 1_000_000
    assert lr_at(0, PAPER, steps) == 1e-5
    assert lr_at(1000, PAPER, steps) == pytest.approx(3e-5)
    assert lr_at(1999, PAPER, steps) == pytest.approx(1e-5 + 4e-5 * 1999 / 2000)
    assert lr_at(2000, PAPER, steps) == 5e-5
    assert lr_at(2000 + 997_999 // 3, PAPER, steps) == pytest.approx(1e-6 + 4.9e-5 * 0.75, rel=1e-5)
    assert lr_at(steps - 1, PAPER, steps) == pytest.approx(1e-6)
    assert lr_at(steps + 5, PAPER, steps) == pytest.approx(1e-6)


def test_learning_rate_rises_in_equal_steps_and_never_rises_again() -> None:
    o = OptimizerConfig(start_lr=1.0, peak_lr=3.0, final_lr=0.5, warmup_steps=4)
    rates = [lr_at(s, o, 20) for s in range(20)]
    assert rates[:5] == pytest.approx([1.0, 1.5, 2.0, 2.5, 3.0])
    assert all(a > b for a, b in itertools.pairwise(rates[4:]))
    assert lr_at(0, OptimizerConfig(warmup_steps=0), 10) == PAPER.peak_lr


class TestTrainableSet:
    def test_table_counts_trainable_and_frozen_parameters(self) -> None:
        from tests.support.toy import toy_model

        lines = trainable_table(toy_model(stage=2), STAGES[2].trains).splitlines()
        assert [line.split() for line in lines[1:]] == [
            ["encoder", "frozen", "176"],
            ["audio_projector", "learns", "56"],
            ["speaker_projector", "learns", "28"],
            ["llm", "frozen", "88"],
            ["lora", "frozen", "54"],
        ]

    def test_parameter_outside_the_trainable_set_is_named(self) -> None:
        from tests.support.toy import toy_model

        model = toy_model(stage=2)
        model.encoder[2].bias.requires_grad = True
        with pytest.raises(TrainingError, match=r"encoder\.2\.bias"):
            trainable_table(model, STAGES[2].trains)

    def test_optimizer_with_other_parameters_is_refused(self) -> None:
        import torch

        from tests.support.toy import toy_model

        model = toy_model(stage=2)
        adam = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad])
        check_optimizer(SimpleNamespace(optimizer=adam), model)
        with pytest.raises(TrainingError, match="holds 84"):
            check_optimizer(SimpleNamespace(optimizer=adam), toy_model(stage=3))
