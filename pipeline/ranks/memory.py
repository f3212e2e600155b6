"""Memory of this process."""

from __future__ import annotations

import resource


def peak_bytes(*, reserved: bool = False) -> int:
    """Return the peak memory of this process: of its GPU, or resident if it uses no GPU. Waits for no device.

    Args:
        reserved: count all memory that torch has reserved on the GPU, not only that of tensors.
    """
    import torch

    if torch.cuda.is_available() and torch.cuda.is_initialized():
        return int(torch.cuda.max_memory_reserved() if reserved else torch.cuda.max_memory_allocated())
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
