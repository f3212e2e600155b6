"""Memory of this process."""

from __future__ import annotations

import resource


def peak_bytes(*, reserved: bool = False) -> int:
    """Largest memory of this process so far: of its card, or resident where no card is in use. Waits for no device.

    Args:
        reserved: count what torch has taken from the card, not only what tensors filled.
    """
    import torch

    if torch.cuda.is_available() and torch.cuda.is_initialized():
        return int(torch.cuda.max_memory_reserved() if reserved else torch.cuda.max_memory_allocated())
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
