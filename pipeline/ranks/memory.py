"""Memory of this process."""

from __future__ import annotations

import os
import resource

_ALLOCATOR = ("PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF", "PYTORCH_HIP_ALLOC_CONF")  # torch reads each


def use_expandable_segments() -> None:
    """Let torch's allocator extend its segments: micro-batches of many sizes leave fewer fragments on a GPU.

    Call it before torch is imported. Settings that the user has made are kept.
    """
    if not any(os.environ.get(name) for name in _ALLOCATOR):
        os.environ[_ALLOCATOR[0]] = "expandable_segments:True"


def peak_bytes(*, reserved: bool = False) -> int:
    """Return the peak memory of this process: of its GPU, or resident if it uses no GPU. Waits for no device.

    Args:
        reserved: count all memory that torch has reserved on the GPU, not only that of tensors.
    """
    import torch

    if torch.cuda.is_available() and torch.cuda.is_initialized():
        return int(torch.cuda.max_memory_reserved() if reserved else torch.cuda.max_memory_allocated())
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
