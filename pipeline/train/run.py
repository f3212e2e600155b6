"""Objects that the trainer works with: recipe, ranks, engine, data."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from pipeline.flops import Meter
from pipeline.ranks.launch import Ranks
from pipeline.ranks.stop import StopRequest
from pipeline.ranks.watchdog import Watchdog
from pipeline.recipe.schema import Recipe


class Step(Protocol):
    """One global step: this rank's micro-batches, and the data state after them."""

    @property
    def micro_batches(self) -> Sequence[Any]: ...

    @property
    def state(self) -> dict[str, Any]: ...

    @property
    def figures(self) -> dict[str, Any]:
        """Figures of the whole step, for the log."""
        ...


class Data(Protocol):
    """Source of batches."""

    @property
    def train_names(self) -> Sequence[str]: ...

    @property
    def validation_names(self) -> Sequence[str]: ...

    def train(self, state: dict[str, Any] | None) -> Iterator[Step]:
        """Yield global steps, from the start or from a saved state."""
        ...

    def validation(self) -> Iterator[tuple[Sequence[Any], int]]:
        """Yield the same micro-batches every time, equally many on every rank, and how many samples were replaced."""
        ...

    def merged_state(self, state: dict[str, Any]) -> dict[str, Any]:
        """Return a step's state as a checkpoint holds it, the same on every rank. Collective."""
        ...

    @property
    def validation_sets(self) -> Sequence[Any]:
        """The validation datasets, for the validation decode."""
        ...

    @property
    def tokenizer(self) -> Any: ...


@dataclass
class Run:
    """Objects of a run that are built at its start and are not part of a checkpoint."""

    recipe: Recipe
    ranks: Ranks
    engine: Any
    data: Data
    stop: StopRequest
    bases: dict[str, str]  # hashes of the weights that this run loaded and does not save
    source: Path | None  # own weights from which it started
    stop_after: int | None = None  # a rehearsal: stop here, saved but not done
    meter: Meter | None = None  # counts operations
    watchdog: Watchdog = field(default_factory=Watchdog)
