"""Bad steps: skipped if loss or gradient is not finite, reported as spikes if it is far above recent values.

All ranks have the same sums and norms, so they reach the same verdict without communication. The state is part of the
checkpoint, so a resumed run reaches the verdicts of an uninterrupted one.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.ranks.collectives import all_gather_or_raise
from pipeline.ranks.launch import Ranks
from shards.errors import TrainingError

if TYPE_CHECKING:
    import torch

SIGMAS = 6.0
HORIZON = 100  # steps over which mean and deviation are taken
WARM = 20  # steps before the first possible spike
MOST_FILES = 100  # of micro-batches in one run


@dataclass
class Average:
    """Exponentially weighted mean and variance; the first ``HORIZON`` values have equal weights."""

    count: int = 0
    mean: float = 0.0
    variance: float = 0.0

    def leap(self, value: float) -> float:
        """Return by how many deviations ``value`` is above the mean; 0 while there are too few values."""
        if self.count < WARM:
            return 0.0
        return (value - self.mean) / self._deviation()

    def add(self, value: float) -> None:
        """Add a value, clipped to ``SIGMAS`` deviations: one spike must not hide the next."""
        if self.count >= WARM:
            most = SIGMAS * self._deviation()
            value = min(max(value, self.mean - most), self.mean + most)
        self.count += 1
        share = 1 / min(self.count, HORIZON)
        off = value - self.mean
        self.mean += share * off
        self.variance = (1 - share) * (self.variance + share * off * off)

    def _deviation(self) -> float:
        return max(math.sqrt(self.variance), 0.01 * abs(self.mean), 1e-12)


@dataclass
class Health:
    """Counts of updates and skipped steps, and running averages of loss and gradient norm."""

    updates: int = 0  # steps that changed the weights
    skipped: int = 0
    in_a_row: int = 0  # skipped ones since the last update
    loss: Average = field(default_factory=Average)
    norm: Average = field(default_factory=Average)

    def judge(self, loss: float, norm: float, applied: bool) -> str | None:
        """Count one step; return ``"skipped"``, ``"spike"`` or, for a usual step, None.

        Raises:
            TrainingError: the update was made although the loss is not finite, so the weights are invalid.
        """
        if not applied:
            self.skipped += 1
            self.in_a_row += 1
            return "skipped"
        if not (math.isfinite(loss) and math.isfinite(norm)):
            raise TrainingError(
                f"DeepSpeed made an update with loss {loss} and gradient norm {norm}: the weights in memory are "
                "invalid, the checkpoints are not; set bf16.check_grad_overflow in the DeepSpeed configuration"
            )
        self.updates += 1
        self.in_a_row = 0
        leaps = max(self.loss.leap(loss), self.norm.leap(norm)) >= SIGMAS
        self.loss.add(loss)
        self.norm.add(norm)
        return "spike" if leaps else None

    def state_dict(self) -> dict[str, Any]:
        """Return the state as JSON types."""
        return asdict(self)

    @classmethod
    def from_state(cls, state: dict[str, Any]) -> Health:
        """Restore a state; the inverse of :meth:`state_dict`."""
        return cls(**{**state, "loss": Average(**state["loss"]), "norm": Average(**state["norm"])})


@dataclass(frozen=True)
class Suspect:
    """A micro-batch of a bad step, in the form that is sent to all ranks."""

    rank: int
    place: int  # number of the micro-batch in the global step
    dataset: str
    mode: str
    loss: float  # per target token
    keys: tuple[str, ...]

    def row(self) -> dict[str, Any]:
        """Return the record for the log."""
        return {**asdict(self), "loss": self.loss if math.isfinite(self.loss) else str(self.loss)}


def suspects(ranks: Ranks, batches: Sequence[Any], losses: Sequence[torch.Tensor], why: str) -> list[Suspect]:
    """Return the micro-batches that may be the cause, the same list on every rank, worst first. Collective.

    For a skipped step these are the micro-batches whose loss is not finite, or all if only the gradient is not finite.
    For a spike these are all.
    """
    mine = [
        Suspect(
            ranks.rank,
            i * ranks.world_size + ranks.rank,
            b.dataset,
            str(b.mode),
            float(loss) / max(1, b.num_targets),
            tuple(b.keys),
        )
        for i, (b, loss) in enumerate(zip(batches, losses, strict=True))
        if b.weight > 0
    ]
    everyone = [s for rank in all_gather_or_raise(ranks, lambda: mine) for s in rank]
    broken = [s for s in everyone if not math.isfinite(s.loss)]
    if why == "skipped" and broken:
        return broken
    return sorted(everyone, key=lambda s: -s.loss)


def save_batch(folder: Path, step: int, suspect: Suspect, batch: Any, seed: int, most: int = MOST_FILES) -> Path | None:
    """Write a micro-batch so that ``model(**torch.load(path)["inputs"])`` repeats its forward pass.

    Returns None, and writes nothing, if the folder has ``most`` files.

    Args:
        seed: argument of ``torch.manual_seed`` before the forward pass.
        most: largest number of files in the folder.
    """
    import torch

    folder.mkdir(parents=True, exist_ok=True)
    if sum(1 for _ in folder.iterdir()) >= most:
        return None
    path = folder / f"step-{step:08d}-batch-{suspect.place:04d}.pt"
    torch.save({**suspect.row(), "keys": list(suspect.keys), "step": step, "seed": seed, "inputs": batch}, path)
    return path
