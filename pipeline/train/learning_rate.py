"""Learning rate: linear warm-up, then cosine, times each parameter group's own factor."""

from __future__ import annotations

import math
from typing import Any

from pipeline.recipe.schema import OptimizerConfig

LR_FACTOR = "lr_factor"  # key of a parameter group


def lr_at(step: int, o: OptimizerConfig, max_steps: int) -> float:
    """Learning rate of update ``step`` (from 0): linear from start_lr to peak_lr, then a cosine to final_lr.

    ``lr = start + (peak - start) · s / W`` for s < W; ``lr = final + (peak - final) · (1 + cos πt) / 2`` afterwards,
    with t from 0 at s = W to 1 at the last update.
    """
    if step < o.warmup_steps:
        return o.start_lr + (o.peak_lr - o.start_lr) * step / o.warmup_steps
    t = min(1.0, (step - o.warmup_steps) / max(1, max_steps - 1 - o.warmup_steps))
    return o.final_lr + (o.peak_lr - o.final_lr) * (1 + math.cos(math.pi * t)) / 2


def set_lr(engine: Any, lr: float) -> None:
    """Set the learning rate of the next update: ``lr`` times the factor of each group (``optimizer.lr_factors``)."""
    for group in engine.optimizer.param_groups:
        group["lr"] = lr * group[LR_FACTOR]
