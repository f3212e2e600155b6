"""The DeepSpeed engine of a stage: parameter groups, trainable set, release.

torch and deepspeed are imported inside functions, so that ``--help`` and ``--dry-run`` cost nothing.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from pipeline.checkpoint.training_state import parameter_numel
from pipeline.stages import module_of
from pipeline.train.learning_rate import LR_FACTOR
from pipeline.train.zero3 import lighten
from shards.errors import TrainingError


def initialize(model: Any, ds_config: dict[str, Any], lr_factors: Mapping[str, float] = MappingProxyType({})) -> Any:
    """Return a DeepSpeed engine that updates exactly the parameters with ``requires_grad``.

    ``lr_factors``: factors of the learning rate by module (:mod:`pipeline.stages`); parameters with the same factor are
    one group.
    """
    import deepspeed

    groups: dict[float, list[Any]] = {}
    for name, p in model.named_parameters():
        if p.requires_grad:
            groups.setdefault(lr_factors.get(module_of(name), 1.0), []).append(p)
    if not groups:
        raise TrainingError("no parameter is trainable in this stage")
    given = [{"params": params, LR_FACTOR: factor} for factor, params in groups.items()]
    engine, *_ = deepspeed.initialize(model=model, model_parameters=given, config=ds_config)
    lighten(engine)
    return engine


def release(engine: Any) -> None:
    """Destroy an engine, so that its memory is freed with the last reference to it.

    DeepSpeed 0.19 keeps modules in a stack and in a cache until the process ends, and leaves in them attributes that
    refer to the optimizer. FunASR's default activation is one object shared by all encoders, so it would keep them too.
    """
    from deepspeed.runtime.zero import parameter_offload, partitioned_param_coordinator

    modules = list(engine.module.modules())
    engine.destroy()
    for module in modules:
        for name in ("pre_bwd_fn", "post_bwd_fn"):
            vars(module).pop(name, None)
    getattr(parameter_offload, "FWD_MODULE_STACK", []).clear()
    for method in vars(partitioned_param_coordinator.PartitionedParameterCoordinator).values():
        wrapped = [cell.cell_contents for cell in getattr(method, "__closure__", None) or ()]
        for cache in (method, *wrapped):
            if isinstance(cache, functools._lru_cache_wrapper):
                cache.cache_clear()


def trainable_table(model: Any, declared: frozenset[str]) -> str:
    """Return a table of each module's parameters, trained or frozen.

    Raises:
        TrainingError: ``requires_grad`` is not what the stage declares.
    """
    counts: dict[str, list[int]] = {}
    wrong = []
    for name, p in model.named_parameters():
        module = module_of(name)
        counts.setdefault(module, [0, 0])[0 if p.requires_grad else 1] += parameter_numel(p)
        if p.requires_grad != (module in declared):
            wrong.append(name)
    if wrong:
        raise TrainingError(
            f"{len(wrong)} parameters do not follow the stage's trainable set {sorted(declared)}, first: {wrong[0]}"
        )
    missing = declared - counts.keys()
    if missing:
        raise TrainingError(f"the stage trains {sorted(missing)}, but the model has no such module")
    rows = [f"  {m:<18}{'learns' if a else 'frozen':<8}{a + b:>15,}" for m, (a, b) in counts.items()]
    return "\n".join(["trainable set:", *rows])


def check_optimizer(engine: Any, model: Any) -> None:
    """Check by number of elements that the optimizer holds all trainable parameters and nothing else."""
    wanted = sum(parameter_numel(p) for p in model.parameters() if p.requires_grad)
    zero3 = getattr(engine.optimizer, "fp16_groups", None)
    if zero3 is not None and hasattr(engine.optimizer, "fp32_partitioned_groups_flat"):
        held = sum(parameter_numel(p) for group in zero3 for p in group)
    else:
        groups = getattr(engine.optimizer, "bit16_groups", None) or [g["params"] for g in engine.optimizer.param_groups]
        held = sum(parameter_numel(p) for group in groups for p in group)
    if held != wanted:
        raise TrainingError(f"the optimizer holds {held:,} parameters, the stage trains {wanted:,}")
