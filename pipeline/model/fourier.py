"""Power spectra of rows of samples, in few shapes.

cuFFT makes a plan for every new number of rows, up to 4,096 of them, each with about 0.5 MB of device memory outside
torch's allocator. The number of frames in a micro-batch is almost always new. So on a GPU rows are filled up to a
multiple of ROWS.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

ROWS = 8192  # at a budget of 12,000 encoder frames, 72,000 rows: 9 plans
PLAN_BYTES = 1 << 19  # of a plan, about
CACHING = ("cuda",)  # types of devices that keep a plan for every number of rows


def power_spectrum(x: Tensor, n: int) -> Tensor:
    """(rows, samples) real → (rows, n / 2 + 1): squared magnitudes of a Fourier transform of n points."""
    rows = len(x)
    if x.device.type in CACHING:
        x = functional.pad(x, (0, 0, 0, -rows % ROWS))
    parts = torch.view_as_real(torch.fft.rfft(x, n=n)[:rows]).square_()
    return parts[..., 0] + parts[..., 1]  # on a CPU a sum over two neighbours takes 4 times as long as the transform


def plans(rows: int) -> int:
    """Return how many plans micro-batches of up to so many rows make."""
    return -(-rows // ROWS)
