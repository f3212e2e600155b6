"""Reads of a step's losses and gradient norm on the host, without waiting for the update.

DeepSpeed decides on the host whether it makes an update: it reads whether the gradient norm is finite, and the device
is drained by then. Copies of the losses and of the norm are therefore enqueued before the update's kernels. They have
arrived, or nearly so, when ``engine.step`` returns. A read that is enqueued later would wait for the whole update.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch


class HostCopy:
    """A tensor and its copy on the way to the host, as it is at this point of the device's queue."""

    def __init__(self, tensor: torch.Tensor) -> None:
        import torch

        self.tensor = tensor
        self._arrived: Any = None
        if tensor.is_cuda:
            self._copy = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
            self._copy.copy_(tensor.detach(), non_blocking=True)
            self._arrived = torch.cuda.Event()
            self._arrived.record()
        else:
            self._copy = tensor.detach().clone()

    def numbers(self) -> list[float]:
        """Return the values; waits only for the copy and for what was enqueued before it."""
        if self._arrived is not None:
            self._arrived.synchronize()
        return [float(v) for v in self._copy.flatten().tolist()]


class GradientNorm:
    """Gradient norm of the last update, copied as soon as it is known, before the weights change."""

    def __init__(self, engine: Any) -> None:
        self._engine = engine
        self._copied: HostCopy | None = None
        inner: Any = getattr(engine.optimizer, "optimizer", None)  # torch's, inside DeepSpeed's
        if hasattr(inner, "register_step_pre_hook"):
            inner.register_step_pre_hook(self._copy_norm)

    def read(self) -> float:
        """Return the norm, after ``engine.step`` has made an update; 0 if DeepSpeed computes no norm."""
        copied, self._copied = self._copied, None
        norm = self._engine.get_global_grad_norm()
        if copied is not None and copied.tensor is norm:
            return copied.numbers()[0]
        return float(norm) if norm is not None else 0.0

    def _copy_norm(self, *_: Any) -> None:
        """Start the copy before torch's optimizer updates the first sub-group of an update."""
        norm: Any = getattr(self._engine.optimizer, "_global_grad_norm", None)
        if hasattr(norm, "is_cuda") and (self._copied is None or self._copied.tensor is not norm):
            self._copied = HostCopy(norm)
