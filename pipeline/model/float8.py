"""The LLM's frozen linear layers in 8 bits: half the memory of bf16, and matrix products at twice the speed.

Weights are rounded once, to float8 (e4m3) with a scale for each row. A forward product rounds its input likewise, row
by row, and multiplies both in float8, by torchao. Backward needs the gradient of the input alone; it is a product in
bf16 with weights that are brought back for its duration. LoRA, norms, embedding and output layer stay as they are.

ZeRO-1 and -2 keep the bytes whole on every rank. ZeRO-3 partitions and gathers them, half as many as of bf16; until the
engine exists each rank holds all of them.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from pipeline.stages import module_of
from shards.errors import ModelError

CAPABILITY = (8, 9)  # of CUDA, from which a card multiplies float8: Ada, Hopper, Blackwell
OFF = "set model.llm.float8: false"


class Float8Linear(nn.Module):
    """A frozen linear layer in float8."""

    scale: Tensor

    def __init__(self, linear: nn.Linear, device: torch.device) -> None:
        """Round a layer's weight, on ``device``, where it stays."""
        super().__init__()
        self.in_features, self.out_features = linear.in_features, linear.out_features
        with _whole(linear.weight):
            rounded = torchao().from_hp(linear.weight.detach().to(device))
        # As bytes: DeepSpeed sends parameters of a model in its first step, and Gloo knows no float8.
        self.weight = nn.Parameter(rounded.qdata.view(torch.uint8), requires_grad=False)
        self.register_buffer("scale", rounded.scale.float(), persistent=False)
        self.bias = linear.bias

    def forward(self, x: Tensor) -> Tensor:
        """(..., in) → (..., out) in the type of ``x``."""
        out: Tensor = _Product.apply(x, self.weight, self.scale, self.bias)
        return out


class _Product(torch.autograd.Function):
    """``x @ weight.T + bias`` with a gradient for ``x`` alone."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, scale: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(weight, scale)
        return functional.linear(x, torchao().tensor(weight, scale, x.dtype), bias)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (gradient,) = gradients
        weight, scale = ctx.saved_tensors
        return gradient @ torchao().tensor(weight, scale, gradient.dtype).dequantize(), None, None, None


def use_float8(llm: Any, device: torch.device) -> None:
    """Replace the frozen linear layers of the LLM's decoder in place. Collective where ZeRO-3 has partitioned them.

    Args:
        device: where they are rounded and stay.

    Raises:
        ModelError: the card has no float8, torchao is missing, or this torch has no such product on the device.
    """
    if device.type == "cuda" and (found := torch.cuda.get_device_capability(device)) < CAPABILITY:
        name = f"{torch.cuda.get_device_name(device)} (compute capability {found[0]}.{found[1]})"
        raise ModelError(f"model.llm.float8: {name} has no float8, which cards from Ada and Hopper on have: {OFF}")
    _try_product(device)
    for name, parent in list(llm.get_decoder().named_modules()):
        for child, layer in list(parent.named_children()):
            if type(layer) is nn.Linear and module_of(f"llm.{name}.{child}.weight") == "llm":
                setattr(parent, child, Float8Linear(layer, device))


def _try_product(device: torch.device) -> None:
    """Multiply once: torch 2.11 on a CPU takes one scale a tensor, not one a row.

    Raises:
        ModelError: it cannot.
    """
    layer = Float8Linear(nn.Linear(32, 32, bias=False), device)
    try:
        layer(torch.ones(2, 32, device=device, dtype=torch.bfloat16))
    except RuntimeError as e:
        reason = str(e).splitlines()[0]
        raise ModelError(
            f"model.llm.float8: torch {torch.__version__} cannot multiply rows of float8 on {device} ({reason}): {OFF}"
        ) from e


def _whole(weight: Tensor) -> AbstractContextManager[Any]:
    """Gather a weight that ZeRO-3 has partitioned, for the block. Collective."""
    if not hasattr(weight, "ds_id"):
        return nullcontext()
    import deepspeed

    gathered: AbstractContextManager[Any] = deepspeed.zero.GatheredParameters([weight])
    return gathered


class _TorchAO:
    """What is used of torchao: its tensor of float8 rows, whose products round their input likewise."""

    def __init__(self) -> None:
        from torchao.float8.inference import Float8MMConfig
        from torchao.quantization.granularity import PerRow
        from torchao.quantization.quantize_.common import KernelPreference
        from torchao.quantization.quantize_.workflows.float8 import float8_tensor

        self._made, self._rows, self._torch = float8_tensor.Float8Tensor, PerRow(), KernelPreference.TORCH
        self._product = Float8MMConfig(use_fast_accum=True)
        self._inputs = float8_tensor.QuantizeTensorToFloat8Kwargs(granularity=self._rows, kernel_preference=self._torch)

    def from_hp(self, weight: Tensor) -> Any:
        """Round a weight (out, in)."""
        return self._made.from_hp(weight, granularity=self._rows, kernel_preference=self._torch)

    def tensor(self, weight: Tensor, scale: Tensor, dtype: torch.dtype) -> Any:
        """Return a weight (out, in) for products in ``dtype``, of its bytes and scales (out, 1)."""
        rows, data = [1, weight.shape[1]], weight.view(torch.float8_e4m3fn)
        return self._made(data, scale, rows, self._product, self._inputs, self._torch, dtype)


@cache
def torchao() -> _TorchAO:
    """Import torchao.

    Raises:
        ModelError: it cannot be imported.
    """
    try:
        return _TorchAO()
    except ImportError as e:
        raise ModelError(f"model.llm.float8: {e}: pip install torchao, or {OFF}") from e
