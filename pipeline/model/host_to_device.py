"""Small numbers of the host on the device, without waiting for the device."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def on_device(values: Sequence[int], device: torch.device) -> Tensor:
    """(A,) int64. ``torch.tensor(..., device=)`` copies from pageable memory, for which the host waits for the GPU."""
    tensor = torch.tensor(list(values))
    if device.type == "cuda":
        tensor = tensor.pin_memory()
    return tensor.to(device, non_blocking=True)


def within(lengths: Sequence[int], total: int, device: torch.device) -> Tensor:
    """(A, total) bool on the device: true where a place lies inside its row's length."""
    return torch.arange(total, device=device) < on_device(lengths, device).unsqueeze(1)
