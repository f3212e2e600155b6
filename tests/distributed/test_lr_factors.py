"""Every shipped DeepSpeed configuration, in every stage, with a group of parameters for each module."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path

import pytest

from pipeline.ranks.collectives import barrier
from pipeline.ranks.launch import Ranks
from pipeline.recipe.schema import Recipe
from pipeline.recipe.shipped import CHECKOUT
from pipeline.stages import STAGES as ALL_STAGES
from pipeline.stages import stage_of
from tests.support.cpu_adam import compiled_adam, use_adam
from tests.support.distributed import run_distributed

SHIPPED = sorted(path.stem for path in (CHECKOUT / "ds_configs").glob("*.json"))
FACTORS = {"encoder": 0.1, "speaker_projector": 3.0, "lora": 0.5}  # a group of its own for each module
STAGES = (0, 1, 2, 3, 4)


def save_and_resume(folder: str, configs: Sequence[str], stages: Sequence[int], adam: str | None) -> None:
    """4 steps, saved after 2; and a new engine from there: the same losses and weights to the bit."""
    if adam:
        use_adam(adam)
    from safetensors.torch import load_file

    from pipeline.ranks.launch import init_distributed
    from tests.support.toy import toy_recipe

    ranks = init_distributed(60)
    for config, stage in ((config, stage) for config in configs for stage in stages):
        here = Path(folder) / f"{Path(config).stem}-{stage}"
        for run, begins in ((here / "straight", 0), (here / "resumed", 2)):
            if begins and ranks.is_first:
                shutil.copytree(here / "straight", run)
                shutil.rmtree(run / "checkpoints" / "step-00000004")
                (run / "done").unlink()
            barrier(ranks)
            recipe = toy_recipe(run, stage, steps=4, deepspeed=config, save_every=2, validate_every=4)
            recipe.optimizer.lr_factors = dict(FACTORS)
            groups = train_from(begins, recipe, ranks)
            assert (groups > 1) == (stage != 0)
        if ranks.is_first:
            a, b = (load_file(here / name / "weights" / "model.safetensors") for name in ("straight", "resumed"))
            assert a.keys() == b.keys()
            assert all((a[name] == b[name]).all() for name in a), here.name
            assert losses(here / "straight") == losses(here / "resumed"), here.name


def train_from(step: int, recipe: Recipe, ranks: Ranks) -> int:
    """Train to the end from the checkpoint of a step; return the number of groups of parameters."""
    from pipeline.train.engine import release
    from tests.support.toy import toy_trainer

    trainer = toy_trainer(recipe, ranks)
    assert trainer.step == step
    assert trainer.train() == 0
    groups = {group["lr_factor"] for group in trainer.engine.optimizer.param_groups}
    release(trainer.engine)
    return len(groups)


def losses(run: Path) -> list[tuple[int, float, float]]:
    rows = [json.loads(line) for line in (run / "train.jsonl").read_text().splitlines()]
    return [(r["step"], r["loss"], r["grad_norm"]) for r in rows]


@pytest.mark.timeout(4000)
def test_every_configuration_and_stage_saves_and_resumes_with_lr_factors(tmp_path: Path) -> None:
    assert "zero3_offload" in SHIPPED
    configs = [f"ds_configs/{name}.json" for name in SHIPPED]
    adam = str(compiled_adam())
    run_distributed(save_and_resume, 2, 400, folder=str(tmp_path), configs=configs, stages=STAGES, adam=adam)


def test_every_set_of_trained_modules_is_tested() -> None:
    """The stages of Speaker-Reasoner train what stage 1 does."""
    tested = [stage_of(number).trains for number in STAGES]
    assert all(stage.trains in tested for stage in ALL_STAGES.values())


def test_zero_1_and_2_in_fp32(tmp_path: Path) -> None:
    """Configurations that a user may derive from ours."""
    config = json.loads((CHECKOUT / "ds_configs" / "zero3_cpu.json").read_text())
    configs = []
    for stage in (1, 2):
        config["zero_optimization"] = {"stage": stage, "parameter_alignment": stage == 2}
        configs.append(str(tmp_path / f"fp32-{stage}.json"))
        Path(configs[-1]).write_text(json.dumps(config))
    run_distributed(save_and_resume, 2, 200, folder=str(tmp_path), configs=configs, stages=(4,), adam=None)
