"""Resolve the DeepSpeed configuration: the recipe's JSON file with every ``"auto"`` filled in from the recipe."""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pipeline.recipe.deepspeed_keys import contradictions, problems
from pipeline.recipe.schema import Recipe
from pipeline.recipe.shipped import find_file
from shards.errors import ConfigError


def resolve_deepspeed(recipe: Recipe, world_size: int) -> dict[str, Any]:
    """Return DeepSpeed's configuration: the recipe's JSON file with every ``"auto"`` filled in from the recipe.

    DeepSpeed drops an ``"auto"`` silently, so an unfilled one is an error. What belongs to the recipe (batch sizes,
    learning rate, clipping …) must be ``"auto"`` or absent in the file, so that the two cannot disagree.

    Raises:
        ConfigError: the file is unreadable, has an unknown key or a value of another type, contradicts itself or the
            recipe, or has an ``"auto"`` that nothing fills.
    """
    path = find_file(recipe.deepspeed)
    config = _read(path)
    if wrong := list(problems(config)) or list(contradictions(config)):
        raise ConfigError(f"DeepSpeed configuration {path}: {'; '.join(wrong)}")
    resolved = copy.deepcopy(config)
    for dotted, value in _recipe_owned(recipe, world_size).items():
        _fill(resolved, dotted, value, path)
    left = [dotted for dotted, value in _walk(resolved) if value == "auto"]
    if left:
        raise ConfigError(f'{path}: nothing fills the "auto" of {", ".join(left)}; write a value')
    return resolved


def _read(path: Path) -> dict[str, Any]:
    """Read a JSON object that has no key twice.

    Raises:
        ConfigError: it is something else.
    """

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        node = dict(pairs)
        if len(node) < len(pairs):
            names = [name for name, _ in pairs]
            raise ValueError(f"{next(n for n in names if names.count(n) > 1)} appears twice in one object")
        return node

    try:
        config = json.loads(path.read_text(encoding="utf-8"), object_pairs_hook=once)
    except (OSError, ValueError, RecursionError) as e:
        raise ConfigError(f"DeepSpeed configuration {path}: {e}") from e
    if not isinstance(config, dict):
        raise ConfigError(f"DeepSpeed configuration {path} is not a JSON object")
    return config


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
    return "bfloat16" if ds_config.get("bf16", {}).get("enabled") else "float32"


def zero_stage(ds_config: dict[str, Any]) -> int:
    """Return the ZeRO stage of a resolved configuration."""
    return int(ds_config["zero_optimization"]["stage"])


def describe(recipe_yaml: str, ds_config: dict[str, Any]) -> str:
    """Return the resolved recipe and DeepSpeed configuration as text, for the start of a log."""
    config = json.dumps(ds_config, indent=2)
    return f"# recipe, resolved\n{recipe_yaml}\n# DeepSpeed configuration, resolved\n{config}"
