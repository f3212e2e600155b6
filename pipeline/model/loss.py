"""Cross-entropy at target positions, in chunks, against a frozen output layer.

Logits over every position would be the largest tensor of a step (152 k × positions), so only target positions are
computed, a chunk at a time. Because the output layer is frozen, the gradient with respect to the hidden states is
computed in the forward pass, in the same chunk as the loss: nothing of a chunk's logits is kept, and backward needs the
layer's weight no more. Under ZeRO-3 the weight is therefore gathered exactly once a micro-batch, on every rank, however
many chunks a rank has.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from shards.errors import ModelError

CHUNK = 1024  # target positions whose logits exist at the same time


@contextmanager
def gathered(parameters: list[nn.Parameter]) -> Iterator[None]:
    """The whole parameters: gathered from all ranks where ZeRO-3 has partitioned them, a no-op elsewhere."""
    if not any(hasattr(p, "ds_id") for p in parameters):
        yield
        return
    try:
        import deepspeed
    except ImportError as e:
        raise ModelError("the output layer is partitioned, but deepspeed cannot be imported to gather it") from e
    with deepspeed.zero.GatheredParameters(parameters):
        yield


def token_losses_sum(head: nn.Linear, hidden: Tensor, targets: Tensor, chunk: int = CHUNK) -> Tensor:
    """Σ cross-entropy of ``targets`` (T,) given ``hidden`` (T, H), as a fp32 scalar; T may be 0.

    Raises:
        ModelError: the head is trained; this function gives it no gradient.
    """
    # Not head.weight: under ZeRO-3 the attribute would gather it for the whole forward pass of the calling module.
    parameters = list(head.parameters())
    if any(p.requires_grad for p in parameters):
        raise ModelError("the LLM's output layer requires a gradient, but the loss treats it as frozen: freeze it")
    with gathered(parameters):
        return _ChunkedCrossEntropy.apply(hidden, head.weight, head.bias, targets, chunk)


def token_losses(head: nn.Linear, hidden: Tensor, targets: Tensor, chunk: int = CHUNK) -> Tensor:
    """Cross-entropy of each of ``targets`` (T,) given ``hidden`` (T, H), fp32 (T,), without a gradient."""
    with torch.no_grad(), gathered(list(head.parameters())):
        losses = [
            nn.functional.cross_entropy(nn.functional.linear(h, head.weight, head.bias).float(), t, reduction="none")
            for h, t in zip(hidden.split(chunk), targets.split(chunk), strict=True)
        ]
    return torch.cat(losses)


class _ChunkedCrossEntropy(torch.autograd.Function):
    """Loss and d(loss)/d(hidden), both in forward."""

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor, chunk: int) -> Tensor:
        total = torch.zeros((), dtype=torch.float32, device=hidden.device)
        needed = ctx.needs_input_grad[0]
        gradient = torch.zeros_like(hidden) if needed else None
        for a in range(0, len(targets), chunk):
            h, t = hidden[a : a + chunk], targets[a : a + chunk]
            logits = nn.functional.linear(h, weight, bias).float()
            rows = torch.arange(len(t), device=t.device)
            log_total = logits.logsumexp(-1)
            total += (log_total - logits[rows, t]).sum()
            if gradient is not None:
                slope = logits.sub_(log_total.unsqueeze(-1)).exp_()  # softmax, in the logits' own memory
                slope[rows, t] -= 1.0
                torch.mm(slope.to(weight.dtype), weight, out=gradient[a : a + chunk])
        ctx.save_for_backward(*([gradient] if gradient is not None else []))
        return total

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        (gradient,) = ctx.saved_tensors
        # In fp32: a CUDA kernel would round the factor to bf16 first, where a CPU one does not.
        return (gradient.float() * grad_outputs[0]).to(gradient.dtype), None, None, None, None
