"""Training state of a DeepSpeed engine as named slices, independent of the world size.

The state of a trainable parameter is three fp32 tensors of its shape: the master copy, ``exp_avg`` and
``exp_avg_sq``. Under ZeRO-3 rank r of N holds elements [r·c, (r+1)·c) of each, c = ceil(numel / N); the last rank's
padding is cut off. Under ZeRO-1 and -2 parameter i is gathered and handed to rank i mod N. A reader asks for any
range of elements, so N may change between writing and reading.

Workarounds for five traps of DeepSpeed 0.19: Adam's state is absent before the first update; ZeRO-1 and -2 link it to
parameters when the first parameter group is updated, before the other groups have one; ``safe_set_full_*`` breaks where
numel is not divisible by N; setting only the master leaves the weights of the forward pass stale; Adam's update counter
is stored with the moments.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from shards.errors import CheckpointError

if TYPE_CHECKING:
    import torch

MASTER = "master"
MOMENTS = ("exp_avg", "exp_avg_sq")
KINDS = (MASTER, *MOMENTS)

Read = Callable[[str, str, int, int], "torch.Tensor"]  # (name, kind, start, end) → flat fp32 tensor


def trainable_parameters(engine: Any) -> list[tuple[str, Any]]:
    """Return names and parameters that the engine updates, in the model's order."""
    return [(name, p) for name, p in engine.module.named_parameters() if p.requires_grad]


def is_partitioned(p: Any) -> bool:
    """Return whether ZeRO-3 holds ``p`` in slices."""
    return hasattr(p, "ds_id")


def local_range(p: Any, rank: int) -> tuple[int, int]:
    """Return the elements [start, end) of a ZeRO-3 parameter that ``rank`` holds; empty past the end."""
    size = p.ds_tensor.numel()
    start = min(rank * size, p.ds_numel)
    return start, min(start + size, p.ds_numel)


def read_slices(engine: Any, rank: int, world_size: int) -> Iterator[tuple[str, str, int, torch.Tensor]]:
    """Yield ``(name, kind, first element, flat fp32 CPU tensor)`` of this rank. Collective under ZeRO-1 and -2.

    Raises:
        CheckpointError: DeepSpeed returns no such state, or that of another parameter.
    """
    _create_adam_state(engine)
    for index, (name, p) in enumerate(trainable_parameters(engine)):
        partitioned = is_partitioned(p)
        start, end = local_range(p, rank) if partitioned else (0, p.numel())
        weight = (p.ds_tensor if partitioned else p.detach()).flatten()[: end - start]
        for kind in KINDS:
            held = _local(p, kind) if partitioned else _whole(name, p, kind)
            part = held.flatten()[: end - start]
            if kind == MASTER and not _same(part, weight):
                raise CheckpointError(f"{name}: the fp32 copy that DeepSpeed returns does not belong to the weight")
            if (partitioned or index % world_size == rank) and part.numel():
                yield name, kind, start, part.detach().to("cpu", _float32(), copy=True)


def _local(p: Any, kind: str) -> torch.Tensor:
    """Return this rank's slice, padded."""
    from deepspeed.utils import safe_get_local_fp32_param, safe_get_local_optimizer_state

    return safe_get_local_fp32_param(p) if kind == MASTER else safe_get_local_optimizer_state(p, kind)


def _whole(name: str, p: Any, kind: str) -> torch.Tensor:
    """Return the whole tensor, on every rank."""
    from deepspeed.utils import safe_get_full_fp32_param, safe_get_full_optimizer_state

    full = safe_get_full_fp32_param(p) if kind == MASTER else safe_get_full_optimizer_state(p, kind)
    if full is None:
        raise CheckpointError(f"{name}: DeepSpeed returns no {kind} of this optimizer; use ZeRO 1-3")
    return full


def write_slices(engine: Any, rank: int, updates: int, read: Read) -> None:
    """Load a saved state into a new engine. Collective; ``updates``: number of optimizer steps already made."""
    _create_adam_state(engine, updates, replace=True)
    for name, p in trainable_parameters(engine):
        if is_partitioned(p):
            _write_partitioned(name, p, rank, read)
        else:
            _write_whole(name, p, read)


def _write_partitioned(name: str, p: Any, rank: int, read: Read) -> None:
    import deepspeed
    from deepspeed.utils import safe_set_local_fp32_param, safe_set_local_optimizer_state

    start, end = local_range(p, rank)
    for kind in KINDS:
        part = p.ds_tensor.new_zeros(p.ds_tensor.numel(), dtype=_float32())
        if end > start:
            part[: end - start] = read(name, kind, start, end).to(part.device)
        if kind == MASTER:
            safe_set_local_fp32_param(p, part)
        else:
            safe_set_local_optimizer_state(p, part, kind)
    with deepspeed.zero.GatheredParameters([p], modifier_rank=0):
        if rank == 0:
            p.data.copy_(read(name, MASTER, 0, p.numel()).view(p.shape))


def _write_whole(name: str, p: Any, read: Read) -> None:
    from deepspeed.utils import safe_set_full_fp32_param, safe_set_full_optimizer_state

    master = read(name, MASTER, 0, p.numel()).view(p.shape).to(p.device)
    safe_set_full_fp32_param(p, master)
    for kind in MOMENTS:
        safe_set_full_optimizer_state(p, read(name, kind, 0, p.numel()).view(p.shape).to(p.device), kind)
    p.data.copy_(master)


def _create_adam_state(engine: Any, updates: int = 0, *, replace: bool = False) -> None:
    """Create Adam's state after ``updates`` steps, with zero moments, where it is missing; or everywhere (``replace``).

    Raises:
        CheckpointError: DeepSpeed made an optimizer whose state this module cannot reach.
    """
    import torch

    zero = engine.optimizer
    adam = getattr(zero, "optimizer", None)
    flat = getattr(zero, "fp32_partitioned_groups_flat", None) or getattr(zero, "single_partition_of_fp32_groups", None)
    if adam is None or flat is None:
        raise CheckpointError(f"cannot save or restore the state of a {type(zero).__name__}; use ZeRO 1-3")
    counts_with_tensor = isinstance(adam, torch.optim.AdamW)
    for q in flat:
        if replace or not adam.state[q]:
            step = torch.tensor(float(updates)) if counts_with_tensor else updates
            adam.state[q] = {"step": step, **{kind: torch.zeros_like(q) for kind in MOMENTS}}
    if replace:
        for group in adam.param_groups:
            if "step" in group:
                group["step"] = updates
    if not hasattr(zero, "fp32_partitioned_groups_flat"):
        _link_moments(zero, adam)


def _link_moments(zero: Any, adam: Any) -> None:
    """Under ZeRO-1 and -2, point DeepSpeed's per-parameter views into Adam's state of every group."""
    for flat, params in zip(zero.single_partition_of_fp32_groups, zero.bit16_groups, strict=True):
        for p in params:
            if getattr(p, "_hp_mapping", None) is not None:
                p._hp_mapping.set_optim_state_fragment(flat, adam.state[flat])


def gather_parameter(p: Any, master: bool) -> torch.Tensor:
    """Return a whole parameter as fp32 on the CPU, on every rank. Collective.

    ``master``: the optimizer's fp32 copy of a trainable parameter instead of the weight of the forward pass.
    """
    import deepspeed
    from deepspeed.utils import safe_get_full_fp32_param

    full = safe_get_full_fp32_param(p) if master and p.requires_grad else None
    if full is not None:
        return full.detach().float().cpu().view(p.ds_shape if is_partitioned(p) else p.shape)
    with deepspeed.zero.GatheredParameters([p], enabled=is_partitioned(p)):
        return p.detach().float().cpu().clone()


def _same(master: torch.Tensor, weight: torch.Tensor) -> bool:
    """Return whether a weight is its rounded master; DeepSpeed can mix them up (ZeRO-2, round_robin_gradients)."""
    return bool((master.to(weight.device, weight.dtype) == weight).all())


def _float32() -> torch.dtype:
    import torch

    return torch.float32


def parameter_numel(p: Any) -> int:
    """Return the number of elements of the whole parameter, also where ZeRO-3 holds only a slice of it here."""
    return int(getattr(p, "ds_numel", p.numel()))
