"""Token losses by dataset and mode, summed over ranks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from pipeline.prompts import Mode

if TYPE_CHECKING:
    import torch


class LossTable:
    """Sums of token losses, or numbers of target tokens, with one cell for each dataset and mode.

    A row of cells is a flat list, so that a single all-reduce adds the rows of all ranks.
    """

    def __init__(self, datasets: Sequence[str]) -> None:
        self.cells = [(d, str(m)) for d in dict.fromkeys(datasets) for m in Mode]
        self._index = {cell: i for i, cell in enumerate(self.cells)}

    def zeros(self) -> list[float]:
        """Return a row of zeros."""
        return [0.0] * len(self.cells)

    def add(self, row: list[float], batch: Any, value: float) -> None:
        """Add a micro-batch's value to its cell; an empty micro-batch adds nothing, even if its loss is not finite."""
        if batch.weight > 0:
            row[self.index(batch)] += value

    def index(self, batch: Any) -> int:
        """Return the index of a micro-batch's cell."""
        return self._index[batch.dataset, str(batch.mode)]

    def targets(self, batches: Sequence[Any]) -> list[float]:
        """Return the target tokens of micro-batches, by cell."""
        row = self.zeros()
        for batch in batches:
            self.add(row, batch, batch.num_targets)
        return row

    def losses(self, batches: Sequence[Any], losses: Sequence[torch.Tensor], device: torch.device) -> torch.Tensor:
        """Return the sums of this rank's token losses: (cells,) float64, on the device."""
        import torch

        row = torch.zeros(len(self.cells), dtype=torch.float64, device=device)
        for batch, loss in zip(batches, losses, strict=True):
            if batch.weight > 0:
                row[self.index(batch)] += loss
        return row

    def means(self, sums: Sequence[float], counts: Sequence[float]) -> dict[str, float]:
        """Return the mean loss per target token by ``dataset/mode``, for the cells with target tokens."""
        return {f"{d}/{m}": s / n for (d, m), s, n in zip(self.cells, sums, counts, strict=True) if n}


def nan_unless_finite(loss: torch.Tensor, losses: torch.Tensor) -> torch.Tensor:
    """Return ``loss`` unchanged if all of ``losses`` are finite, else NaN.

    ``losses`` are those of all ranks: one that is not finite makes the gradients of every rank NaN, so that all skip
    the update. Adding 0 times their sum does this on the device, without a wait and without a message between ranks.
    """
    return loss * (1 + 0 * losses.sum()).to(loss.dtype)
