"""Gradient norm of each module, where gradients are spread over ranks."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from pipeline.checkpoint.training_state import is_partitioned, local_range, trainable_parameters
from pipeline.ranks.collectives import all_reduce_sum
from pipeline.ranks.launch import Ranks
from pipeline.stages import MODULES, module_of

if TYPE_CHECKING:
    import torch


def module_norms(engine: Any, ranks: Ranks) -> dict[str, float]:
    """Return the norm of the step's gradient by module, before clipping. Collective: four numbers, whatever the stage.

    Call it between the last backward pass and the update. The squares add up to the square of DeepSpeed's own norm.
    Each rank sums the squares of the parts that it holds: slices under ZeRO-3, fragments under ZeRO-1 and -2.
    """
    import torch

    parts: dict[str, list[torch.Tensor]] = {}
    for name, p in trainable_parameters(engine):
        of_module = parts.setdefault(module_of(name), [])
        part = own_part(p, ranks.rank)
        if part is not None and part.numel():
            of_module.append(part.float())
    squares = [_square(parts.get(m, []), ranks.device) for m in MODULES]
    values = all_reduce_sum(ranks, torch.stack(squares).tolist())
    return {m: math.sqrt(v) for m, v in zip(MODULES, values, strict=True) if m in parts}


def own_part(p: Any, rank: int) -> Any:
    """Return the elements of a parameter's gradient that this rank accounts for, flat; None: none of them."""
    from deepspeed.utils import safe_get_local_grad

    if is_partitioned(p):
        start, end = local_range(p, rank)
        return safe_get_local_grad(p).flatten()[: end - start]  # behind it is padding
    if not hasattr(p, "_hp_mapping") or (p.grad is not None and getattr(p, "_hp_grad", None) is None):
        return p.grad.flatten() if rank == 0 and p.grad is not None else None  # whole on every rank
    if p._hp_mapping is None:
        return None  # other ranks hold it
    held = p._hp_mapping.get_lp_grad_fragment(p._index_in_param_group).flatten()
    place = p._hp_mapping.lp_fragment_address
    return held.narrow(0, place.start, place.numel) if held.numel() == p.numel() else held


def _square(parts: Sequence[torch.Tensor], device: Any) -> torch.Tensor:
    """Sum the squares of all elements, in fp64."""
    import torch

    if not parts:
        return torch.zeros((), dtype=torch.float64, device=device)
    return torch.stack(torch._foreach_norm(list(parts))).double().square().sum()
