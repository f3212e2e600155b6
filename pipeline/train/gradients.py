"""Gradient norm of each module, where gradients are spread over ranks."""

from __future__ import annotations

import math
from typing import Any

from pipeline.checkpoint.training_state import is_partitioned, local_range, trainable_parameters
from pipeline.ranks.collectives import all_reduce_sum
from pipeline.ranks.launch import Ranks
from pipeline.stages import MODULES, module_of


def module_norms(engine: Any, ranks: Ranks) -> dict[str, float]:
    """Return the norm of the step's gradient by module, before clipping. Collective.

    Call it between the last backward pass and the update. The squares add up to the square of DeepSpeed's own norm.
    Under ZeRO-3 each rank sums the squares of its slices, and four numbers are summed over ranks. Under ZeRO-1 and -2
    DeepSpeed returns whole gradients, which costs one all-reduce for each.
    """
    import torch
    from deepspeed.utils import safe_get_full_grad, safe_get_local_grad

    squares = {m: torch.zeros((), dtype=torch.float64, device=ranks.device) for m in MODULES}
    partitioned = False
    for name, p in trainable_parameters(engine):
        if is_partitioned(p):
            partitioned = True
            start, end = local_range(p, ranks.rank)
            gradient = safe_get_local_grad(p).flatten()[: end - start]  # behind it is padding
        else:
            gradient = safe_get_full_grad(p)
        if gradient is not None and gradient.numel():
            squares[module_of(name)] += torch.linalg.vector_norm(gradient.float()).double() ** 2
    values = torch.stack([squares[m] for m in MODULES]).tolist()
    if partitioned:
        values = all_reduce_sum(ranks, values)
    learning = {module_of(name) for name, _ in trainable_parameters(engine)}
    return {m: math.sqrt(v) for m, v in zip(MODULES, values, strict=True) if m in learning}
