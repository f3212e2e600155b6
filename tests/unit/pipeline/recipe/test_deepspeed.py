"""DeepSpeed's configuration, resolved from a recipe."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from pipeline.recipe.deepspeed import accumulation_steps, dtype_name, resolve_deepspeed, zero_stage
from pipeline.recipe.load import load_recipe
from pipeline.recipe.schema import DataConfig, DatasetConfig, LlmConfig, ModelConfig, OptimizerConfig, Recipe
from pipeline.recipe.shipped import CHECKOUT
from shards.errors import ConfigError


def recipe(deepspeed: str = "ds_configs/zero3.json", micro_batches: int = 4) -> Recipe:
    return Recipe(
        name="x",
        stage=1,
        output="x",
        deepspeed=deepspeed,
        model=ModelConfig(llm=LlmConfig("x"), extractor="x"),
        data=DataConfig(train=[DatasetConfig(path="x")], micro_batches_per_step=micro_batches),
        optimizer=OptimizerConfig(clip=0.7, betas=[0.8, 0.9]),
    )


@pytest.mark.parametrize("name", ["zero3", "zero3_offload", "zero2", "zero3_cpu"])
@pytest.mark.parametrize("world_size", [1, 2, 3, 4])
def test_every_auto_is_resolved(name: str, world_size: int) -> None:
    config = resolve_deepspeed(recipe(f"ds_configs/{name}.json"), world_size)
    assert '"auto"' not in json.dumps(config)
    assert config["gradient_accumulation_steps"] == math.ceil(4 / world_size)
    assert config["train_batch_size"] == world_size * config["gradient_accumulation_steps"]
    assert config["gradient_clipping"] == 0.7
    assert config["optimizer"]["params"]["betas"] == [0.8, 0.9]
    assert config["communication_data_type"] == config["data_types"]["grad_accum_dtype"] == "fp32"


def write(tmp_path: Path, **changes: object) -> str:
    config = json.loads((CHECKOUT / "ds_configs" / "zero3_cpu.json").read_text())
    path = tmp_path / "ds.json"
    path.write_text(json.dumps({**config, **changes}))
    return str(path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"gradient_clipping": 5.0}, "gradient_clipping is 5.0"),
        ({"train_batch_size": 64}, "train_batch_size is 64"),
        ({"communication_data_type": "bf16"}, "communication_data_type"),
        ({"scheduler": {"type": "WarmupLR"}}, "scheduler does not belong here: the learning rate is the recipe's"),
        ({"optimizer": None}, "optimizer is null, must be a JSON object"),
        ({"optimizer": {"params": 3}}, "optimizer.params is 3, must be a JSON object"),
        ({"zero_optimization": 3, "bf16": True}, "zero_optimization is 3, .*; bf16 is true, must be a JSON object"),
        ({"bfloat16": {"enabled": True}}, 'bfloat16 does not belong here: it is called "bf16"'),
        ({"comms_logger": {"prof_ops": "auto"}}, "comms_logger.prof_ops"),
    ],
)
def test_contradiction_to_the_recipe_is_refused(tmp_path: Path, changes: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        resolve_deepspeed(recipe(write(tmp_path, **changes)), 2)


def test_unreadable_configuration_is_named(tmp_path: Path) -> None:
    (tmp_path / "list.json").write_text("[]")
    with pytest.raises(ConfigError, match=r"list\.json is not a JSON object"):
        resolve_deepspeed(recipe(str(tmp_path / "list.json")), 1)
    with pytest.raises(ConfigError, match=r"nowhere\.json"):
        resolve_deepspeed(recipe(str(tmp_path / "nowhere.json")), 1)


def test_types_and_stage() -> None:
    assert dtype_name({"bf16": {"enabled": True}}) == "bfloat16"
    assert dtype_name({}) == "float32"
    assert zero_stage({"zero_optimization": {"stage": 3}}) == 3


def test_more_processes_than_micro_batches_are_refused() -> None:
    assert accumulation_steps(64, 5) == 13
    with pytest.raises(ConfigError, match="5 processes"):
        accumulation_steps(4, 5)


@pytest.mark.parametrize("path", sorted((CHECKOUT / "launch" / "recipes").glob("*/stage*.yaml")), ids=str)
def test_every_recipe_resolves(path: Path) -> None:
    loaded = load_recipe(path)
    assert loaded.stage == int(path.stem.removeprefix("stage"))
    resolve_deepspeed(loaded, 2)


@pytest.mark.parametrize("path", sorted((CHECKOUT / "ds_configs").glob("*.json")), ids=lambda p: p.stem)
def test_shipped_files_measure_no_throughput(path: Path) -> None:
    """DeepSpeed's timer waits for the device in every forward pass and update."""
    from deepspeed.runtime.config import DeepSpeedConfig

    config = resolve_deepspeed(recipe(str(path)), 1)
    assert not DeepSpeedConfig(config).timers_config.enabled
