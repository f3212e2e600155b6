"""The options of the model: memory and seconds of a step that each would change, beside the recipe without it.

Seconds are those of the card alone, at its data-sheet bandwidth and the assumed share of its peak. Liger's kernels and
float8 are run on tensors without content like everything else; what a compiler fuses is not foreseen.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from types import MethodType
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from pipeline.flops import Load
from pipeline.preflight.live_memory import tensors
from pipeline.preflight.memory import GIB, activations, inputs_of, states
from pipeline.preflight.shapes import empty_model
from pipeline.recipe.deepspeed import dtype_name
from pipeline.recipe.schema import Recipe
from pipeline.stages import STAGES
from shards.errors import ModelError

PRODUCTS = {"mm", "addmm", "bmm", "baddbmm", "_scaled_mm", "convolution", "convolution_backward"}
NO_KERNEL = {"empty", "empty_like", "empty_strided", "new_empty", "new_empty_strided", "_reshape_alias", "detach"}


@dataclass(frozen=True)
class Cost:
    """Of a micro-batch, forward and backward."""

    activations: int  # bytes at the fullest moment
    traffic: int  # bytes that kernels other than matrix products and attention read and write
    kernels: int


@dataclass(frozen=True)
class Option:
    """One option and its change."""

    name: str  # its setting
    on: bool  # in the recipe
    text: str


class Traffic(TorchDispatchMode):
    """Counts kernels, and the bytes that elementwise ones read and write."""

    def __init__(self) -> None:
        super().__init__()
        self.bytes = self.kernels = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run the operation, then look at what it read and gave."""
        out = func(*args, **(kwargs or {}))
        name = func.overloadpacket.__name__
        if func.is_view or name in NO_KERNEL:
            return out
        self.kernels += 1
        if name not in PRODUCTS and "attention" not in name and "attn" not in name:
            self.bytes += sum(t.numel() * t.element_size() for t in (*tensors((args, kwargs or {})), *tensors(out)))
        return out


def cost(model: Any, load: Load, zero3: bool) -> Cost:
    """Count a micro-batch on a model without content."""
    with Traffic() as traffic:
        added = activations(model, load, zero3)
    return Cost(added, traffic.bytes, traffic.kernels)


def options(recipe: Recipe, ds_config: Mapping[str, Any], load: Load, world: Any, rounds: int) -> list[Option]:
    """Compare the recipe with and without each option.

    Args:
        load: the micro-batch that needs most memory.
        world: where it will run, with a card.
        rounds: micro-batches of a rank in a step.
    """
    dtype, zero3 = dtype_name(dict(ds_config)), ds_config["zero_optimization"]["stage"] == 3
    plain = replace(recipe.model, llm=replace(recipe.model.llm, float8=False))
    model, of_audio = _model(recipe, plain, dtype, load)
    without = cost(model, load, zero3)
    with like_liger(model):
        liger = cost(model, load, zero3)
    out = [
        Option("model.llm.liger", recipe.model.llm.liger, _change(without, liger, 0, 0.0, world, rounds)),
        Option("model.encoder.compile", recipe.model.encoder.compile, _compiled(of_audio)),
    ]
    return [*out, _float8(recipe, plain, model, without, ds_config, load, world, rounds)]


def _float8(
    recipe: Recipe, plain: Any, model: Any, without: Cost, ds_config: Mapping[str, Any], load: Load, world: Any,
    rounds: int,
) -> Option:  # fmt: skip
    from pipeline.flops import Sizes, count

    name, on = "model.llm.float8", recipe.model.llm.float8
    if not world.card.float8:
        return Option(name, on, f"{world.card.name} has no float8")
    dtype, zero3 = dtype_name(dict(ds_config)), ds_config["zero_optimization"]["stage"] == 3
    try:
        rounded, _ = _model(recipe, replace(plain, llm=replace(plain.llm, float8=True)), dtype, load)
    except ModelError as e:
        return Option(name, on, f"not counted: {e}")
    found = cost(rounded, load, zero3)
    kept = [states(m, ds_config, dtype, world.size) for m in (model, rounded)]
    weights = sum(k["weights"] + k["gathered"] for k in kept[1:]) - kept[0]["weights"] - kept[0]["gathered"]
    trains = STAGES[recipe.stage].trains
    work = count(Sizes.of(rounded), load, trains, recipe.model.activation_checkpointing)
    saved = work.float8 / 2 / (world.card.bf16_tflops * 1e12 * world.efficiency)
    return Option(name, on, _change(without, found, weights, saved, world, rounds))


def _change(before: Cost, after: Cost, weights: int, saved: float, world: Any, rounds: int) -> str:
    """Format a difference.

    Args:
        weights: bytes that a rank holds more.
        saved: seconds of a micro-batch's matrix products.
    """
    moved = after.traffic - before.traffic
    seconds = rounds * (moved / (world.card.memory_gb_s * 1e9) - saved)
    gib = (after.activations - before.activations + weights) / GIB
    products = f", {-1000 * rounds * saved:+.0f} ms of products" if saved else ""
    return (
        f"{gib:+.1f} GiB, {1000 * seconds:+.0f} ms a step ({rounds * moved / 1e9:+.0f} GB read and written{products}), "
        f"{rounds * (after.kernels - before.kernels):+,} kernels"
    )


def _compiled(kernels: int) -> str:
    return f"fewer of the {kernels:,} kernels that encode the audio of a micro-batch; not estimated"


def _model(recipe: Recipe, cfg: Any, dtype: str, load: Load) -> tuple[Any, int]:
    """Return the model without content, and the kernels of its encoder's forward pass."""
    model, _ = empty_model(cfg, dtype)
    model.trainable(STAGES[recipe.stage].trains)
    inputs = inputs_of(load, model)
    audio = inputs["waveforms"], inputs["waveform_lengths"]
    with torch.no_grad():
        model.encode_audio(*audio)  # the frontend's constants go to the device once
        with Traffic() as traffic:
            model.encode_audio(*audio)
    return model.train(), traffic.kernels


# --------------------------------------------------------------------------------------------------- Liger's kernels


@contextmanager
def like_liger(model: Any) -> Iterator[None]:
    """Let an LLM without content keep, read and write what it does with Liger's kernels. Values mean nothing."""
    llm = getattr(model, "llm", model)
    replaced = []
    for module in llm.modules():
        if type(module).__name__.endswith("RMSNorm"):
            forward: Any = _norm
        elif all(hasattr(module, name) for name in ("gate_proj", "up_proj", "down_proj", "act_fn")):
            forward = _feed_forward
        else:
            continue
        replaced.append((module, vars(module).get("forward")))
        vars(module)["forward"] = MethodType(forward, module)
    code: Any = sys.modules[type(llm).__module__]
    rotary = getattr(code, "apply_rotary_pos_emb", None)
    if rotary is not None:
        code.apply_rotary_pos_emb = _rotary
    try:
        yield
    finally:
        for module, before in replaced:
            del vars(module)["forward"]
            if before is not None:
                vars(module)["forward"] = before
        if rotary is not None:
            code.apply_rotary_pos_emb = rotary


def _norm(self: Any, x: Tensor) -> Tensor:
    out: Tensor = _Norm.apply(x)
    return out


def _feed_forward(self: Any, x: Tensor) -> Tensor:
    out: Tensor = self.down_proj(_SwiGlu.apply(self.gate_proj(x), self.up_proj(x)))
    return out


def _rotary(q: Tensor, k: Tensor, cos: Tensor, sin: Tensor, **_: Any) -> tuple[Tensor, Tensor]:
    out: tuple[Tensor, Tensor] = _Rotary.apply(q, k, cos)
    return out


class _Norm(torch.autograd.Function):
    """Keeps its input and a number for each row; the gradient takes the place of the incoming one."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x, x.new_empty(x.shape[:-1], dtype=torch.float32))
        return x.clone()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        return gradients[0].mul_(ctx.saved_tensors[0])


class _SwiGlu(torch.autograd.Function):
    """Keeps its two factors; their gradients take their places."""

    @staticmethod
    def forward(ctx: Any, gate: Tensor, up: Tensor) -> Tensor:
        ctx.save_for_backward(gate, up)
        return gate * up

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor]:
        gate, up = ctx.saved_tensors
        with torch.no_grad():
            return gate.detach().addcmul_(up, gradients[0]), up.detach().zero_()


class _Rotary(torch.autograd.Function):
    """Turns queries and keys in place, forward and backward."""

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, cos: Tensor) -> tuple[Tensor, Tensor]:
        ctx.save_for_backward(cos)
        return q.detach().neg_(), k.detach().neg_()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        return gradients[0].neg_(), gradients[1].neg_(), None


def lines(found: list[Option]) -> list[str]:
    """Format as text."""
    head = "options, off by default (* on), against the recipe without them; at the card's full bandwidth"
    return ["", head, *(f"  {'*' if o.on else ' '} {o.name:24}{o.text}" for o in found)] if found else []
