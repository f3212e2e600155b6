"""Linear layers of the LLM in 8 bits, for decoding on a CPU.

A weight is rounded by row to 127 steps on either side of zero, an input likewise by token, and both are multiplied as
integers. A token's numbers therefore do not depend on those beside it in the batch. Embeddings, LoRA, encoder and
projectors stay as they are. The product is PyTorch's, without another package: torchao's layers compute the same, but
slower than float32 where a token is written at a time (docs/benchmarks/int8.md).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from pipeline.stages import module_of
from shards.errors import ConfigError

STEPS = 127
_TRIED = 512  # length of the products that are tried at the start


class Int8Linear(nn.Module):
    """A linear layer of rounded weights, without gradients."""

    weight: Tensor  # int8 (out, in)
    scale: Tensor  # (out,)

    def __init__(self, linear: nn.Linear) -> None:
        """Round a layer's weights."""
        super().__init__()
        weight = linear.weight.detach().float()
        scale = weight.abs().amax(1, keepdim=True).clamp(min=1e-12) / STEPS
        self.in_features, self.out_features = linear.in_features, linear.out_features
        self.register_buffer("weight", (weight / scale).round().to(torch.int8))
        self.register_buffer("scale", scale.squeeze(1))
        self.bias = None if linear.bias is None else nn.Parameter(linear.bias.detach().float(), requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        """(…, in) float → (…, out) in its dtype."""
        rows = x.reshape(-1, self.in_features).float()
        scale = rows.abs().amax(1, keepdim=True).clamp(min=1e-12) / STEPS
        product = torch._int_mm((rows / scale).round_().to(torch.int8), self.weight.t())
        out = product.float().mul_(scale).mul_(self.scale)
        if self.bias is not None:
            out += self.bias
        return out.to(x.dtype).view(*x.shape[:-1], self.out_features)


def use_int8(model: Any) -> Any:
    """Replace the linear layers of a model's LLM in place, its output layer included; return the model.

    Raises:
        ConfigError: the model is not on a CPU, or this CPU's products of integers are not exact.
    """
    if model.device.type != "cpu":
        raise ConfigError(
            f"--quantize int8 is for a CPU, the model is on {model.device}: use --device cpu, or leave it out"
        )
    _check_products()
    llm = model.llm
    for name, parent in list(llm.named_modules()):
        for child, layer in list(parent.named_children()):
            if type(layer) is nn.Linear and module_of(f"llm.{name}.{child}.weight") == "llm":
                setattr(parent, child, Int8Linear(layer))
    return model


def _check_products() -> None:
    """Try the largest numbers: processors without VNNI may cut sums of products off."""
    a = torch.full((2, _TRIED), STEPS, dtype=torch.int8)
    b = torch.full((_TRIED, 2), STEPS, dtype=torch.int8)
    b[:, 1] = -STEPS
    try:
        found = torch._int_mm(a, b)
    except (AttributeError, RuntimeError) as e:
        raise ConfigError(f"--quantize int8: this PyTorch cannot multiply integers ({e}): leave it out") from e
    if found.abs().min() != _TRIED * STEPS**2:
        raise ConfigError("--quantize int8: this CPU's products of integers are not exact: leave it out")
