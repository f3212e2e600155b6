"""Cross-entropy at target positions, in chunks, against a frozen output layer.

Logits over every position would be the largest tensor of a step (152 k × positions), so only target positions are
computed, a chunk at a time. Because the output layer is frozen, the gradient with respect to the hidden states is
computed in the forward pass, in the same chunk as the loss: nothing of a chunk's logits is kept, and backward needs the
layer's weight no more. It runs as the output layer's own forward, between the layer's hooks: so ZeRO-3 fetches the
weight ahead, as it does for every module, exactly once a micro-batch, on every rank, however many chunks a rank has.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from shards.errors import ModelError

CHUNK = 1024  # target positions whose logits exist at the same time


def run_as(module: nn.Module, forward: Callable[..., Any], *inputs: Tensor) -> Any:
    """Call a module, hooks included, with another ``forward`` in place of its own."""
    before = vars(module).get("forward")  # a library may have put one there
    vars(module)["forward"] = forward
    try:
        return module(*inputs)
    finally:
        del vars(module)["forward"]
        if before is not None:
            vars(module)["forward"] = before


def token_losses_sum(
    head: nn.Linear,
    hidden: Tensor,
    targets: Tensor,
    weights: Tensor | None = None,
    chunk: int = CHUNK,
    each: Tensor | None = None,
) -> Tensor:
    """Σ weight × cross-entropy of ``targets`` (T,) given ``hidden`` (T, H), as a fp32 scalar; T may be 0.

    Args:
        weights: (T,) float32; None: all 1.
        chunk: targets whose logits exist at the same time.
        each: (T,) float32, which gets the cross-entropy of each target, without its weight.

    Raises:
        ModelError: the head is trained; this function gives it no gradient.
    """
    if any(p.requires_grad for p in head.parameters()):
        raise ModelError("the LLM's output layer requires a gradient, but the loss treats it as frozen: freeze it")
    needed = torch.is_grad_enabled() and hidden.requires_grad

    def loss_and_gradient(hidden: Tensor, targets: Tensor) -> tuple[Tensor, ...]:
        return _loss_and_gradient(head, hidden, targets, weights, chunk, needed, each)

    with torch.no_grad():  # no output with a graph: in backward the weight would be fetched again, for nothing
        total, *gradient = run_as(head, loss_and_gradient, hidden.detach(), targets)
    return _WithGradient.apply(hidden, total, *gradient) if needed else total


def token_losses(head: nn.Linear, hidden: Tensor, targets: Tensor, chunk: int = CHUNK) -> Tensor:
    """Cross-entropy of each of ``targets`` (T,) given ``hidden`` (T, H), fp32 (T,), without a gradient."""

    def each(hidden: Tensor, targets: Tensor) -> Tensor:
        losses = [
            nn.functional.cross_entropy(nn.functional.linear(h, head.weight, head.bias).float(), t, reduction="none")
            for h, t in zip(hidden.split(chunk), targets.split(chunk), strict=True)
        ]
        return torch.cat(losses)

    with torch.no_grad():
        out: Tensor = run_as(head, each, hidden, targets)
    return out


def _loss_and_gradient(
    head: nn.Linear,
    hidden: Tensor,
    targets: Tensor,
    weights: Tensor | None,
    chunk: int,
    with_gradient: bool,
    each: Tensor | None,
) -> tuple[Tensor, ...]:
    """The loss, and d(loss)/d(hidden) if it is asked for."""
    weight, bias = head.weight, head.bias
    total = torch.zeros((), dtype=torch.float32, device=hidden.device)
    gradient = torch.zeros_like(hidden) if with_gradient else None
    for a in range(0, len(targets), chunk):
        h, t = hidden[a : a + chunk], targets[a : a + chunk]
        logits = nn.functional.linear(h, weight, bias).float()
        rows = torch.arange(len(t), device=t.device)
        log_total = logits.logsumexp(-1)
        losses = log_total - logits[rows, t]
        if each is not None:
            each[a : a + chunk] = losses
        total += losses.sum() if weights is None else (losses * weights[a : a + chunk]).sum()
        if gradient is not None:
            slope = logits.sub_(log_total.unsqueeze(-1)).exp_()  # softmax, in the logits' own memory
            slope[rows, t] -= 1.0
            if weights is not None:
                slope *= weights[a : a + chunk].unsqueeze(-1)
            torch.mm(slope.to(weight.dtype), weight, out=gradient[a : a + chunk])
    return (total,) if gradient is None else (total, gradient)


class _WithGradient(torch.autograd.Function):
    """A loss whose gradient is known already."""

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, total: Tensor, gradient: Tensor) -> Tensor:
        ctx.save_for_backward(gradient)
        return total.clone()

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        (gradient,) = ctx.saved_tensors
        # In fp32: a CUDA kernel would round the factor to bf16 first, where a CPU one does not.
        return (gradient.float() * grad_outputs[0]).to(gradient.dtype), None, None
