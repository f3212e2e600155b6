from __future__ import annotations

import itertools
import json
import math
from pathlib import Path
from types import SimpleNamespace
from typing import ClassVar

import pytest

from pipeline.ranks.launch import check_card, first_host, launcher_environment
from pipeline.recipe.deepspeed import CHECKOUT, accumulation_steps, dtype_name, resolve_deepspeed, zero_stage
from pipeline.recipe.load import load_recipe
from pipeline.recipe.schema import DataConfig, DatasetConfig, LlmConfig, ModelConfig, OptimizerConfig, Recipe
from pipeline.stages import STAGES
from pipeline.train.engine import check_optimizer, lr_at, trainable_table
from shards.errors import ConfigError, TrainingError

PAPER = OptimizerConfig()


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
        ({"scheduler": {"type": "WarmupLR"}}, "no scheduler"),
        ({"optimizer": None}, "optimizer is None; a JSON object is wanted"),
        ({"optimizer": {"params": 3}}, "optimizer.params is no JSON object"),
        ({"zero_optimization": 3, "bf16": True}, "bf16 is True, zero_optimization is 3; a JSON object is wanted"),
        ({"bfloat16": {"enabled": True}}, 'bfloat16 is called "bf16"'),
        ({"amp": {"opt_level": "auto"}}, "amp.opt_level"),
    ],
)
def test_a_file_that_contradicts_the_recipe_is_refused(tmp_path: Path, changes: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        resolve_deepspeed(recipe(write(tmp_path, **changes)), 2)


def test_unreadable_configuration_is_named(tmp_path: Path) -> None:
    (tmp_path / "list.json").write_text("[]")
    with pytest.raises(ConfigError, match=r"list\.json is no JSON object"):
        resolve_deepspeed(recipe(str(tmp_path / "list.json")), 1)
    with pytest.raises(ConfigError, match=r"nowhere\.json"):
        resolve_deepspeed(recipe(str(tmp_path / "nowhere.json")), 1)


def test_types_and_stage() -> None:
    assert dtype_name({"bf16": {"enabled": True}}) == "bfloat16"
    assert dtype_name({}) == "float32"
    assert zero_stage({"zero_optimization": {"stage": 3}}) == 3
    with pytest.raises(ConfigError, match="fp16"):
        dtype_name({"fp16": {"enabled": True}})


def test_a_rank_without_a_card_of_its_own_is_told_how_to_get_one() -> None:
    check_card(3, 4)
    with pytest.raises(ConfigError, match=r"local rank 3 sees 1 GPU\(s\).*--gpus-per-node"):
        check_card(3, 1)


def test_more_processes_than_micro_batches_are_refused() -> None:
    assert accumulation_steps(64, 5) == 13
    with pytest.raises(ConfigError, match="5 processes"):
        accumulation_steps(4, 5)


class TestLaunchers:
    DEEPSPEED: ClassVar = {"RANK": "3", "WORLD_SIZE": "8", "LOCAL_RANK": "1", "MASTER_ADDR": "a", "MASTER_PORT": "1"}
    SRUN: ClassVar = {
        "SLURM_STEP_ID": "0",
        "SLURM_PROCID": "9",
        "SLURM_LOCALID": "1",
        "SLURM_STEP_NUM_TASKS": "16",
        "SLURM_STEP_NODELIST": "gpu[07-08]",
        "SLURM_JOB_ID": "41234",
    }

    def test_deepspeed_and_torchrun_win_over_slurm(self) -> None:
        assert launcher_environment({**self.SRUN, **self.DEEPSPEED}) == self.DEEPSPEED

    def test_srun(self) -> None:
        expected = {"RANK": "9", "WORLD_SIZE": "16", "LOCAL_RANK": "1", "MASTER_ADDR": "gpu07", "MASTER_PORT": "21234"}
        assert launcher_environment(self.SRUN) == expected

    def test_plain_python_in_a_batch_script_is_alone(self) -> None:
        env = {k: v for k, v in self.SRUN.items() if k != "SLURM_STEP_ID"} | {"SLURM_NTASKS": "16"}
        assert launcher_environment(env)["WORLD_SIZE"] == "1"

    def test_half_an_environment_is_an_error(self) -> None:
        with pytest.raises(ConfigError, match="MASTER_PORT"):
            launcher_environment({"RANK": "0", "WORLD_SIZE": "2"})

    @pytest.mark.parametrize(
        ("nodes", "first"), [("gpu[03-05,9],cpu1", "gpu03"), ("a,b", "a"), ("n1", "n1"), ("x[7]", "x7")]
    )
    def test_first_host(self, nodes: str, first: str) -> None:
        assert first_host(nodes) == first


class TestTrainableSet:
    def test_table_counts_what_learns_and_what_is_frozen(self) -> None:
        from tests.support.toy import toy_model

        lines = trainable_table(toy_model(stage=2), STAGES[2].trains).splitlines()
        assert [line.split() for line in lines[1:]] == [
            ["encoder", "frozen", "176"],
            ["audio_projector", "learns", "56"],
            ["speaker_projector", "learns", "28"],
            ["llm", "frozen", "88"],
            ["lora", "frozen", "54"],
        ]

    def test_a_parameter_that_does_not_follow_the_stage_is_named(self) -> None:
        from tests.support.toy import toy_model

        model = toy_model(stage=2)
        model.encoder[2].bias.requires_grad = True
        with pytest.raises(TrainingError, match=r"encoder\.2\.bias"):
            trainable_table(model, STAGES[2].trains)

    def test_an_optimizer_that_holds_something_else_is_refused(self) -> None:
        import torch

        from tests.support.toy import toy_model

        model = toy_model(stage=2)
        adam = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad])
        check_optimizer(SimpleNamespace(optimizer=adam), model)
        with pytest.raises(TrainingError, match="holds 84"):
            check_optimizer(SimpleNamespace(optimizer=adam), toy_model(stage=3))


@pytest.mark.parametrize("path", sorted((CHECKOUT / "launch" / "recipes").glob("*/stage*.yaml")), ids=str)
def test_every_recipe_resolves(path: Path) -> None:
    loaded = load_recipe(path)
    assert loaded.stage == int(path.stem.removeprefix("stage"))
    resolve_deepspeed(loaded, 2)
