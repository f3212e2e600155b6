"""Preflight of runs on thinkers: shapes of the published models, operations, memory, and the command itself."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pipeline.flops import Load, Sizes, count
from pipeline.preflight.cli import main
from pipeline.preflight.memory import activations
from pipeline.preflight.shapes import empty_model
from pipeline.recipe.load import load_recipe
from pipeline.recipe.shipped import RECIPES
from pipeline.stages import Base
from shards.errors import ModelError
from tests.support.thinkers import make_thinker, thinker_config


def test_a_token_uses_its_share_of_the_experts(tmp_path: Path) -> None:
    sizes = {}
    for experts in (2, 8):
        folder = make_thinker(tmp_path / str(experts), Base.QWEN3_OMNI, experts=experts)
        model, source = empty_model(thinker_config(folder, Base.QWEN3_OMNI), "bfloat16")
        sizes[experts] = Sizes.of(model)
        assert str(folder) in source[0]
    router = 2 * 64 * (8 - 2)  # of two layers, which every token uses whole
    assert sizes[8].llm - sizes[2].llm == router  # two experts a token, however many there are
    load = Load(samples=(200,), frames=(60,), audio_positions=46, speakers=1, targets=20)
    work = count(sizes[8], load, {"lora"}, False)
    assert work.by_module["encoder"] > 0  # forward alone: it is frozen
    assert work.by_module["llm"] == 4 * sizes[8].llm * 200 + 3 * 2 * sizes[8].llm_width * 2 * 200**2
    model.trainable({"lora"})
    assert activations(model.train(), load, zero3=True) > 2 * 200 * 64


@pytest.mark.parametrize(
    ("base", "parameters", "lora"),
    [
        (Base.QWEN2_5_OMNI, 8_255_263_744 + 20_185_088, 20_185_088),
        # Decoder and output layer are the 30,532,122,624 of Qwen3-30B-A3B, with 128 more entries of the vocabulary.
        (Base.QWEN3_OMNI, 30_532_122_624 + 2 * 128 * 2048 + 647_927_168 + 6_684_672, 6_684_672),
    ],
)
def test_shipped_recipes_have_the_published_sizes(base: Base, parameters: int, lora: int) -> None:
    for stage in (11, 12, 13):
        recipe = load_recipe(RECIPES / f"speaker-reasoner-{base}" / f"stage{stage}.yaml")
        assert recipe.model.base == base
        assert recipe.model.lora.r == 8
        assert bool(recipe.init_from) == (stage > 11)
    model, _ = empty_model(recipe.model, "bfloat16")
    assert sum(p.numel() for p in model.parameters()) == parameters
    model.trainable({"lora"})
    assert sum(p.numel() for p in model.parameters() if p.requires_grad) == lora


def test_an_unknown_shape_is_an_error(tmp_path: Path) -> None:
    cfg = thinker_config(tmp_path / "none", Base.QWEN3_OMNI)
    with pytest.raises(ModelError, match="known are Qwen3-Omni-30B-A3B-Instruct"):
        empty_model(cfg, "float32")


@pytest.mark.parametrize("base", [Base.QWEN2_5_OMNI, Base.QWEN3_OMNI])
def test_the_command_plans_a_run(base: Base, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = make_thinker(tmp_path / base, base)
    recipe = str(RECIPES / f"speaker-reasoner-{base}" / "stage12.yaml")
    settings = [f"model.llm.checkpoint={folder}", f"output={tmp_path}/run", "data.micro_batches_per_step=2"]
    asked = ["--positions", "4000", "--card", "H100-80", "--gpus", "2", "--no-choices", "--no-checks", "--json"]
    assert main([recipe, *settings, *asked]) == 0
    found = json.loads(capsys.readouterr().out)["estimate"]
    assert set(found["parameters"]) == {"llm", "lora"}
    assert found["fits"]
    assert found["host_seconds"] is None
    assert found["hardware_tflop"] > found["model_tflop"] > 0
