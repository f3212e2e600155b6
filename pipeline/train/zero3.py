"""ZeRO-3 that costs the host little: few hooked modules, few collectives after an update.

DeepSpeed 0.19 hooks every module, four times, and looks up its parameters at each call; it gathers the parameters that
stay whole one by one after each update. At the 7B recipe's numbers of modules and parameters that takes several times
the host's time for the step itself, and a GPU waits for it. So

- a layer of the LLM is hooked as one module, and so is an encoder or projector whose parameters all stay whole; a model
  may name its own units;
- parameters that stay whole are gathered in buckets.

The values are the same, but for the order in which gradients of a tensor with several readers are summed: hooks split
such a tensor. DeepSpeed's own leaf modules are set before its optimizer is made; it then reduces the gradients of a
leaf in one hook, which runs too early if the leaf's input needs no gradient. Here gradients keep their own hooks.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any


def lighten(engine: Any) -> None:
    """Hook fewer modules of a ZeRO-3 engine and gather its whole parameters in buckets; no-op for other stages."""
    if engine.zero_optimization_stage() != 3:
        return
    from deepspeed.runtime.zero import parameter_offload
    from deepspeed.utils.z3_leaf_module import set_z3_leaf_module

    offload = engine.optimizer.parameter_offload
    offload._remove_module_hooks()
    for hooks in (offload.forward_hooks, offload.backward_hooks, parameter_offload.FWD_MODULE_STACK):
        hooks.clear()
    for module in units(engine.module, offload.param_numel_persistence_threshold):
        set_z3_leaf_module(module, True)
    offload.setup_zero_stage3_hooks()
    whole = engine.optimizer.persistent_parameters
    if whole:
        gather_in_buckets(whole, int(engine.zero_reduce_bucket_size()))


def units(model: Any, threshold: int) -> Iterator[Any]:
    """Yield the modules whose parameters are gathered together.

    Args:
        threshold: parameters of at most this many elements stay whole.
    """
    if hasattr(model, "zero3_units"):
        yield from model.zero3_units()
        return
    from transformers.modeling_layers import GradientCheckpointingLayer

    yield from (m for m in model.llm.modules() if isinstance(m, GradientCheckpointingLayer))
    for name in ("encoder", "audio_projector"):
        if hasattr(model, name):
            yield from _whole(getattr(model, name), threshold)


def _whole(module: Any, threshold: int) -> Iterator[Any]:
    """Yield the largest modules, this one or parts of it, whose parameters all stay whole."""
    import torch

    called = type(module).forward is not torch.nn.ModuleList.forward  # a list is not: no hook of it would run
    if called and all(p.ds_numel <= threshold for p in module.parameters()):
        yield module
        return
    for child in module.children():
        yield from _whole(child, threshold)


def gather_in_buckets(parameters: Sequence[Any], elements: int) -> None:
    """Let the parameters that DeepSpeed gathers together after an update travel in buckets of about ``elements``.

    It asks the first one to gather a list, and would issue a collective for each of that list.
    """
    from deepspeed.runtime.zero.partition_parameters import ZeroParamStatus

    first = parameters[0]
    one_by_one = first.all_gather

    def all_gather(param_list: Sequence[Any] | None = None, async_op: bool = False, hierarchy: int = 0) -> Any:
        if param_list is None or async_op:
            return one_by_one(param_list, async_op=async_op, hierarchy=hierarchy)
        missing = [p for p in param_list if p.ds_status == ZeroParamStatus.NOT_AVAILABLE]
        for bucket in buckets(missing, elements):
            first.all_gather_coalesced(bucket).wait()
        return None

    first.all_gather = all_gather


def buckets(parameters: Sequence[Any], elements: int) -> Iterator[list[Any]]:
    """Split a list of parameters, in order, into parts of at most ``elements``, or of a single larger one."""
    part: list[Any] = []
    held = 0
    for p in parameters:
        if part and held + p.ds_numel > elements:
            yield part
            part, held = [], 0
        part.append(p)
        held += p.ds_numel
    if part:
        yield part
