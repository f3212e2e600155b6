"""AdamW with warm-up and cosine, for stage 0's plain PyTorch training."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch
    from torch import Tensor

LOG_EVERY = 50


def optimize(
    name: str,
    parameters: list[torch.nn.Parameter],
    losses: Callable[[int], dict[str, Tensor]],
    steps: int,
    peak: float,
    ranks: int = 1,
) -> None:
    """Minimise a sum of losses. AdamW, linear warm-up over 5 %, cosine to 5 % of the peak rate; prints each loss.

    Args:
        ranks: processes that call this together, with the same weights; their gradients are averaged, the first prints.
    """
    import torch

    optimizer = torch.optim.AdamW(parameters, lr=peak, betas=(0.9, 0.95), weight_decay=0.01, fused=True)
    prints = ranks == 1 or torch.distributed.get_rank() == 0
    start = time.process_time()
    seen: dict[str, list[float]] = {}
    for step in range(steps):
        rate = min(1.0, (step + 1) / max(1, steps // 20)) * (0.525 + 0.475 * math.cos(math.pi * step / steps))
        for group in optimizer.param_groups:
            group["lr"] = peak * rate
        parts = losses(step)
        optimizer.zero_grad()
        torch.stack(list(parts.values())).sum().backward()
        if ranks > 1:
            _average_gradients(parameters, ranks)
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        for part, value in parts.items():
            seen.setdefault(part, []).append(value.item())
        if prints and ((step + 1) % LOG_EVERY == 0 or step + 1 == steps):
            means = " ".join(f"{part} {sum(values) / len(values):.3f}" for part, values in seen.items())
            print(f"{name} step {step + 1}/{steps} {means} {time.process_time() - start:.0f} s of CPU", flush=True)
            seen = {}


def _average_gradients(parameters: list[torch.nn.Parameter], ranks: int) -> None:
    """Average gradients over the processes, in one call. A parameter that a process has not used has zeros there."""
    import torch

    grads = [torch.zeros_like(p) if p.grad is None else p.grad for p in parameters]
    flat = torch.cat([grad.flatten() for grad in grads])
    torch.distributed.all_reduce(flat)
    for p, grad in zip(parameters, (flat / ranks).split([g.numel() for g in grads]), strict=True):
        p.grad = grad.view_as(p)
