"""Keys and types of a DeepSpeed JSON file: one line that names the key, before anything is loaded."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.recipe.deepspeed import resolve_deepspeed
from pipeline.recipe.deepspeed_keys import SETTINGS, ZERO, Table, problems
from pipeline.recipe.schema import DataConfig, DatasetConfig, LlmConfig, ModelConfig, Recipe
from pipeline.recipe.shipped import CHECKOUT
from shards.errors import ConfigError


def recipe(deepspeed: Path) -> Recipe:
    return Recipe(
        name="x",
        stage=1,
        output="x",
        deepspeed=str(deepspeed),
        model=ModelConfig(llm=LlmConfig("x"), extractor="x"),
        data=DataConfig(train=[DatasetConfig(path="x")]),
    )


def message(folder: Path, changes: dict[str, Any]) -> str:
    """Return the error of zero2.json with these changes; None removes a key, dots lead into a block."""
    config = json.loads((CHECKOUT / "ds_configs" / "zero2.json").read_text())
    for dotted, value in changes.items():
        *parents, leaf = dotted.split(".")
        node = config
        for name in parents:
            node = node.setdefault(name, {})
        if value is None:
            del node[leaf]
        else:
            node[leaf] = value
    (folder / "ds.json").write_text(json.dumps(config))
    with pytest.raises(ConfigError) as e:
        resolve_deepspeed(recipe(folder / "ds.json"), 2)
    assert "\n" not in str(e.value)
    return str(e.value)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"zero_optimization.stage": 0}, "zero_optimization.stage is 0, must be 1, 2 or 3"),
        ({"zero_optimization.stage": 4}, "zero_optimization.stage is 4, must be 1, 2 or 3"),
        ({"zero_optimization.stage": True}, "zero_optimization.stage is true, must be 1, 2 or 3"),
        ({"zero_optimization.stage": "3"}, 'zero_optimization.stage is "3", must be 1, 2 or 3'),
        ({"zero_optimization.stage": None}, "zero_optimization.stage is missing"),
        ({"zero_optimization.stage": "auto"}, 'nothing fills the "auto" of zero_optimization.stage'),
        ({"zero_optimization": None}, "zero_optimization is missing"),
        ({"zero_optimization": True}, "zero_optimization is true, must be a JSON object"),
        (
            {"zero_optimization": None, "zero_optimisation": {"stage": 2}},
            "zero_optimisation is not a setting that is supported; did you mean zero_optimization?",
        ),
        ({"zero_optimization.stgae": 3}, "zero_optimization.stgae is not a setting"),
        ({"zero_optimization.offload_optimizer": {"devise": "cpu"}}, "did you mean zero_optimization.offload_opt"),
        ({"zero_optimization.offload_optimizer": {"device": "nvme"}}, 'offload_optimizer.device is "nvme", must be'),
        ({"zero_optimization.offload_optimizer": {"device": "cpu", "ratio": 0.5}}, "ratio below 1 needs stage 3"),
        ({"zero_optimization.offload_param": {"device": "cpu"}}, "offload_param needs stage 3, stage is 2"),
        ({"zero_optimization.cpu_offload": True}, "zero_optimization.cpu_offload is not a setting"),
        ({"zero_optimization.overlap_comm": "true"}, 'zero_optimization.overlap_comm is "true", must be true, false'),
        ({"zero_optimization.reduce_bucket_size": "5e8"}, 'reduce_bucket_size is "5e8", must be a whole number'),
        ({"zero_optimization.reduce_bucket_size": 0.5}, "reduce_bucket_size is 0.5, must be a whole number"),
        ({"zero_optimization.round_robin_gradients": True}, "round_robin_gradients is true, must be false or absent"),
        ({"zero_optimization.compute_grad_norm": False}, "compute_grad_norm is false, must be true or absent"),
        ({"zero_optimization.stage": 1}, "zero_optimization.stage is 1 with bf16"),
        ({"bf16.enabled": "False"}, 'bf16.enabled is "False", must be true or false'),
        ({"bf16.enabled": 1}, "bf16.enabled is 1, must be true or false"),
        ({"bf16.enable": True}, "bf16.enable is not a setting that is supported; did you mean bf16.enabled?"),
        ({"bf16.bf16_master_weights_and_grads": True}, "bf16.bf16_master_weights_and_grads is true, must be false"),
        ({"bf16.check_grad_overflow": False}, "bf16.check_grad_overflow is false, must be true or absent"),
        ({"fp16.enabled": True}, "fp16.enabled is true, must be false or absent: use bf16, or neither"),
        ({"fp16.enabled": True, "bf16.enabled": False}, "fp16.enabled is true"),
        ({"data_types.param_dtype": "bf16"}, "data_types.param_dtype is not a setting"),
        ({"optimizer.params.torch_adam": "yes"}, 'optimizer.params.torch_adam is "yes", must be true or false'),
        ({"optimizer.params.adam_w_mode": False}, "optimizer.params.adam_w_mode is false, must be true or absent"),
        ({"optimizer.params.weightdecay": 0.1}, "did you mean optimizer.params.weight_decay?"),
        ({"optimizer.type": "SGD"}, "optimizer.type is 'SGD', but the recipe says 'AdamW'"),
        ({"train_micro_batch_size_per_gpu": 8}, "train_micro_batch_size_per_gpu is 8, but the recipe says 1"),
        ({"activation_checkpointing": {}}, "activation_checkpointing does not belong here"),
        ({"wandb": {"enabled": True}}, "wandb does not belong here"),
        ({"amp": {"enabled": True}}, "amp is not a setting"),
        ({"steps_per_print": True}, "steps_per_print is true, must be a whole number"),
    ],
)
def test_fault_is_one_line_that_names_the_key(tmp_path: Path, changes: dict[str, Any], expected: str) -> None:
    assert expected in message(tmp_path, changes)


def test_all_faults_are_listed(tmp_path: Path) -> None:
    found = message(tmp_path, {"bf16.enabled": "False", "zero_optimization.stage": 4, "elasticity": {}})
    assert all(key in found for key in ("bf16.enabled", "zero_optimization.stage", "elasticity"))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('{"bf16": {"enabled": true, "enabled": false}}', "enabled appears twice"),
        ('{"bf16": ' + '{"a":' * 100_000, "ds.json: "),
        ("{'bf16': 1}", "ds.json: "),
        ("[]", "is not a JSON object"),
    ],
)
def test_text_that_is_not_one_json_object(tmp_path: Path, text: str, expected: str) -> None:
    (tmp_path / "ds.json").write_text(text)
    with pytest.raises(ConfigError, match=expected):
        resolve_deepspeed(recipe(tmp_path / "ds.json"), 1)


def test_dry_run_prints_the_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from pipeline.train.cli import main

    config = json.loads((CHECKOUT / "ds_configs" / "zero3.json").read_text())
    config["zero_optimization"]["stage"] = 0
    (tmp_path / "ds.json").write_text(json.dumps(config))
    run = str(CHECKOUT / "launch" / "recipes" / "tiny" / "stage1.yaml")
    assert main([run, f"deepspeed={tmp_path / 'ds.json'}", "--dry-run"]) == 1
    assert capsys.readouterr().err.count("\n") == 1


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.just("auto"),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
)


@settings(max_examples=200)
@given(st.data())
def test_any_json_gives_a_configuration_or_one_error(tmp_path_factory: pytest.TempPathFactory, data: Any) -> None:
    config = json.loads((CHECKOUT / "ds_configs" / "zero3_offload.json").read_text())
    for _ in range(data.draw(st.integers(1, 3))):
        node: dict[str, Any] = config
        name = data.draw(st.sampled_from(sorted(node)) | st.text())
        while isinstance(node.get(name), dict) and data.draw(st.booleans()):
            node = node[name]
            name = data.draw(st.sampled_from(sorted(node)) | st.text() if node else st.text())
        node[name] = data.draw(JSON)
    path = tmp_path_factory.mktemp("json") / "ds.json"
    path.write_text(json.dumps(config))
    try:
        resolved = resolve_deepspeed(recipe(path), 2)
    except ConfigError as e:
        assert str(path) in str(e)  # noqa: PT017 - a property: an error names the file
    else:
        assert resolved["zero_optimization"]["stage"] in (1, 2, 3)


def names(model: Any) -> set[str]:
    """Keys that DeepSpeed reads into a class."""
    return {field.alias or name for name, field in model.model_fields.items()}


def test_names_are_deepspeed_s() -> None:
    from deepspeed.comm.config import CommsLoggerConfig
    from deepspeed.runtime.precision_config import DeepSpeedBF16Config, DeepSpeedFP16Config
    from deepspeed.runtime.zero.config import DeepSpeedZeroConfig
    from deepspeed.runtime.zero.leaf_module_config import DeepSpeedZeroLeafModuleConfig
    from deepspeed.runtime.zero.offload_config import (
        DeepSpeedZeroOffloadOptimizerConfig,
        DeepSpeedZeroOffloadParamConfig,
    )

    blocks: list[tuple[Any, Any]] = [
        (ZERO, DeepSpeedZeroConfig),
        (ZERO["leaf_module"], DeepSpeedZeroLeafModuleConfig),
        (ZERO["offload_param"], DeepSpeedZeroOffloadParamConfig),
        (ZERO["offload_optimizer"], DeepSpeedZeroOffloadOptimizerConfig),
        (SETTINGS["bf16"], DeepSpeedBF16Config),
        (SETTINGS["fp16"], DeepSpeedFP16Config),
        (SETTINGS["comms_logger"], CommsLoggerConfig),
    ]
    for table, model in blocks:
        assert set(table) <= names(model)


@pytest.mark.parametrize("path", sorted((CHECKOUT / "ds_configs").glob("*.json")), ids=lambda p: p.stem)
def test_deepspeed_accepts_what_is_accepted(path: Path) -> None:
    from deepspeed.runtime.zero.config import DeepSpeedZeroConfig

    config = json.loads(path.read_text())
    assert not list(problems(config))
    DeepSpeedZeroConfig(**config["zero_optimization"])


def test_every_setting_may_have_its_default() -> None:
    """The default of a setting that DeepSpeed knows fits the type that we demand."""
    from deepspeed.runtime.precision_config import DeepSpeedBF16Config
    from deepspeed.runtime.zero.config import DeepSpeedZeroConfig

    zero = DeepSpeedZeroConfig(stage=3).model_dump(by_alias=True)
    table: Table = {"bf16": SETTINGS["bf16"], "zero_optimization": ZERO}
    defaults = {
        "bf16": DeepSpeedBF16Config().model_dump(),
        "zero_optimization": {k: v for k, v in zero.items() if k in ZERO and v is not None},
    }
    assert not list(problems(defaults, table))
