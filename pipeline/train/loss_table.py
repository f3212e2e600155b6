"""Token losses by dataset and mode, summed over ranks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from pipeline.prompts import Mode, Part
from pipeline.stages import Task

if TYPE_CHECKING:
    import torch


class LossTable:
    """Sums of token losses, or numbers of target tokens, with one cell for each dataset and mode.

    A row of cells is a flat list, so that a single all-reduce adds the rows of all ranks.
    """

    def __init__(self, datasets: Sequence[str]) -> None:
        self.cells = [(d, str(m)) for d in dict.fromkeys(datasets) for m in (*Mode, *Task)]
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


class PartTable:
    """Losses of the parts of dialogues: of labels, of times, and of the bounds of observations, without weights.

    A row has the sums of the parts, then their numbers of tokens. Batches of other stages add nothing.
    """

    parts = (Part.LABEL, Part.TIME, Part.BOUNDARY)

    def row(self, batch: Any, losses: torch.Tensor | None, device: torch.device) -> torch.Tensor:
        """Return the row of a micro-batch: (2 · parts,) float64, on the device.

        Args:
            losses: (T,) of its tokens; None: it has no parts.
        """
        import torch

        parts = getattr(batch, "parts", None)
        if losses is None or parts is None or not batch.weight:
            return torch.zeros(2 * len(self.parts), dtype=torch.float64, device=device)
        chosen = torch.stack([parts == tuple(Part).index(part) for part in self.parts])
        return torch.cat([torch.where(chosen, losses.detach(), 0.0).sum(1, dtype=torch.float64), chosen.sum(1)])

    def means(self, row: Sequence[float]) -> dict[str, float]:
        """Return the mean loss per token by part, for the parts with tokens."""
        n = len(self.parts)
        return {str(part): row[i] / row[n + i] for i, part in enumerate(self.parts) if row[n + i]}


def nan_unless_finite(loss: torch.Tensor, losses: torch.Tensor) -> torch.Tensor:
    """Return ``loss`` unchanged if all of ``losses`` are finite, else NaN.

    ``losses`` are those of all ranks: one that is not finite makes the gradients of every rank NaN, so that all skip
    the update. Adding 0 times their sum does this on the device, without a wait and without a message between ranks.
    """
    return loss * (1 + 0 * losses.sum()).to(loss.dtype)
