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
    name: str, parameters: list[torch.nn.Parameter], losses: Callable[[int], dict[str, Tensor]], steps: int, peak: float
) -> None:
    """Minimise a sum of losses. AdamW, linear warm-up over 5 %, cosine to 5 % of the peak rate; prints each loss."""
    import torch

    optimizer = torch.optim.AdamW(parameters, lr=peak, betas=(0.9, 0.95), weight_decay=0.01, fused=True)
    start = time.process_time()
    seen: dict[str, list[float]] = {}
    for step in range(steps):
        rate = min(1.0, (step + 1) / max(1, steps // 20)) * (0.525 + 0.475 * math.cos(math.pi * step / steps))
        for group in optimizer.param_groups:
            group["lr"] = peak * rate
        parts = losses(step)
        optimizer.zero_grad()
        torch.stack(list(parts.values())).sum().backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        for part, value in parts.items():
            seen.setdefault(part, []).append(value.item())
        if (step + 1) % LOG_EVERY == 0 or step + 1 == steps:
            means = " ".join(f"{part} {sum(values) / len(values):.3f}" for part, values in seen.items())
            print(f"{name} step {step + 1}/{steps} {means} {time.process_time() - start:.0f} s of CPU", flush=True)
            seen = {}
