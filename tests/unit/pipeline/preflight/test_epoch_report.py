"""The command that reports how a recipe's plan fills its micro-batches."""

from __future__ import annotations

from pathlib import Path

from pipeline.data.plan_report import plan_report
from pipeline.flops import Meter
from pipeline.model.build import build_model
from pipeline.preflight import epoch_report
from pipeline.prompts import PromptTokenizer
from pipeline.recipe.load import load_recipe
from pipeline.stages import STAGES
from tests.support.datasets import make_dataset
from tests.support.tiny import make_base

RECIPE = Path(__file__).resolve().parents[4] / "launch/recipes/tiny/stage3.yaml"


def test_the_command_reports_the_plan_of_a_recipe(tmp_path, capsys):
    make_dataset(tmp_path / "data" / "harder", samples=60, seconds=(1.0, 4.0), samples_per_shard=20)
    tokenizer = PromptTokenizer.from_folder(make_base(tmp_path / "models").llm)
    overrides = [f"root={tmp_path}", "data.registration.name_pools=[zh]"]
    capsys.readouterr()
    assert epoch_report.main([str(RECIPE), *overrides, "--steps", "3", "--ranks", "1"]) == 0
    said = capsys.readouterr().out
    recipe = load_recipe(RECIPE, overrides)
    again = plan_report(epoch_report.open_plan(recipe, tokenizer), 3)
    assert said.startswith(f"3 steps, 6 batches, {again.samples} samples")
    assert f"nearer budget filled {again.budget_fill:.1%}" in said
    assert "imbalance 0.0%" in said  # one rank waits for no other
    assert epoch_report.main([str(RECIPE), "root=/nowhere"]) == 1
    assert "/nowhere" in capsys.readouterr().err


def test_imbalance_is_of_the_recipe_s_own_model(tmp_path):
    """Sizes come from the model's folders: the same model that a run would build."""
    make_base(tmp_path / "models")
    recipe = load_recipe(RECIPE, [f"root={tmp_path}"])
    model = build_model(recipe.model)
    model.trainable(STAGES[3].trains)
    assert epoch_report.meter_of(recipe) == Meter.of(model, STAGES[3].trains, 1)
