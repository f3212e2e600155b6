"""Resolve the DeepSpeed configuration: the recipe's JSON file with every ``"auto"`` filled in from the recipe."""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pipeline.recipe.schema import Recipe
from shards.errors import ConfigError

CHECKOUT = Path(__file__).resolve().parents[2]


def resolve_deepspeed(recipe: Recipe, world_size: int) -> dict[str, Any]:
    """Return DeepSpeed's configuration: the recipe's JSON file with every ``"auto"`` filled in from the recipe.

    DeepSpeed drops an ``"auto"`` silently, so an unfilled one is an error. What belongs to the recipe (batch sizes,
    learning rate, clipping …) must be ``"auto"`` or absent in the file, so that the two cannot disagree.

    Raises:
        ConfigError: the file is unreadable, contradicts the recipe, or has an ``"auto"`` that nothing fills.
    """
    path = find_file(recipe.deepspeed)
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as e:
        raise ConfigError(f"DeepSpeed configuration {path}: {e}") from e
    _check_objects(config, path)
    if "scheduler" in config:
        raise ConfigError(f"{path}: no scheduler here, the learning rate is the recipe's (optimizer.*)")
    if own := [name for name in ("tensorboard", "wandb", "csv_monitor", "comet") if name in config]:
        raise ConfigError(f"{path}: no {' and no '.join(own)} here, monitors are the recipe's (monitor.*)")
    resolved = copy.deepcopy(config)
    for dotted, value in _recipe_owned(recipe, world_size).items():
        _fill(resolved, dotted, value, path)
    left = [dotted for dotted, value in _walk(resolved) if value == "auto"]
    if left:
        raise ConfigError(f'{path}: nothing fills the "auto" of {", ".join(left)}; write a value')
    return resolved


def _check_objects(config: Any, path: Path) -> None:
    """Check that sections are JSON objects, and refuse the old name of bf16, which DeepSpeed also accepts."""
    if not isinstance(config, dict):
        raise ConfigError(f"{path} is not a JSON object")
    if "bfloat16" in config:
        raise ConfigError(f'{path}: bfloat16 is called "bf16"; rename it')
    objects = ("bf16", "fp16", "zero_optimization", "optimizer", "data_types", "activation_checkpointing")
    if wrong := [f"{name} is {config[name]!r}" for name in objects if not isinstance(config.get(name, {}), dict)]:
        raise ConfigError(f"{path}: {', '.join(wrong)}; must be a JSON object or absent")
    if not isinstance(config.get("optimizer", {}).get("params", {}), dict):
        raise ConfigError(f"{path}: optimizer.params is not a JSON object")


def find_file(name: str) -> Path:
    """Resolve a path of a recipe: as given, or relative to the checkout."""
    path = Path(name)
    return path if path.is_absolute() or path.exists() else CHECKOUT / path


def accumulation_steps(micro_batches: int, world_size: int) -> int:
    """Return the micro-batches per rank in one global step: ceil(M / N)."""
    if world_size > micro_batches:
        raise ConfigError(
            f"{world_size} processes but data.micro_batches_per_step is {micro_batches}: "
            f"start at most {micro_batches} processes, or raise it (it changes a step: launch/recipes/README.md)"
        )
    return math.ceil(micro_batches / world_size)


def _recipe_owned(recipe: Recipe, world_size: int) -> dict[str, Any]:
    accumulate = accumulation_steps(recipe.data.micro_batches_per_step, world_size)
    o = recipe.optimizer
    return {
        "train_micro_batch_size_per_gpu": 1,
        "gradient_accumulation_steps": accumulate,
        "train_batch_size": accumulate * world_size,
        "gradient_clipping": o.clip,
        "optimizer.type": "AdamW",
        "optimizer.params.lr": o.start_lr,
        "optimizer.params.betas": list(o.betas),
        "optimizer.params.eps": o.eps,
        "optimizer.params.weight_decay": o.weight_decay,
        # A step's loss is one sum over all ranks: bf16 would round it.
        "communication_data_type": "fp32",
        "data_types.grad_accum_dtype": "fp32",
    }


def _fill(config: dict[str, Any], dotted: str, value: Any, path: Path) -> None:
    *parents, leaf = dotted.split(".")
    node = config
    for name in parents:
        node = node.setdefault(name, {})
    if node.get(leaf, "auto") not in ("auto", value):
        raise ConfigError(f'{path}: {dotted} is {node[leaf]!r}, but the recipe says {value!r}; write "auto" there')
    node[leaf] = value


def _walk(node: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(node, dict):
        for name, value in node.items():
            yield from _walk(value, f"{prefix}{name}.")
    else:
        yield prefix.rstrip("."), node


def dtype_name(ds_config: dict[str, Any]) -> str:
    """Return the dtype of forward and backward, ``bfloat16`` or ``float32``. Master weights are always fp32."""
    if ds_config.get("fp16", {}).get("enabled"):
        raise ConfigError("fp16 is not supported: use bf16, or neither for fp32")
    return "bfloat16" if ds_config.get("bf16", {}).get("enabled") else "float32"


def zero_stage(ds_config: dict[str, Any]) -> int:
    """Return the ZeRO stage; 0 if the configuration names none."""
    return int(ds_config.get("zero_optimization", {}).get("stage", 0))


def describe(recipe_yaml: str, ds_config: dict[str, Any]) -> str:
    """Return the resolved recipe and DeepSpeed configuration as text, for the start of a log."""
    config = json.dumps(ds_config, indent=2)
    return f"# recipe, resolved\n{recipe_yaml}\n# DeepSpeed configuration, resolved\n{config}"
