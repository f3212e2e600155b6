"""The plan: which samples, in which mode, in which micro-batch of which global step.

A pure function of (index, lengths, recipe, seed). Per dataset and epoch:

1. The shards are permuted and taken in windows of ``window_shards``.
2. Every sample of a window draws its mode, its registered speakers and their names, keyed by (seed, epoch, key).
3. The samples of one mode are packed into micro-batches by two budgets (packing.py); the window's micro-batches are
   shuffled. Samples that fill none are carried into the next window; the last window of an epoch packs all.

Datasets are interleaved per micro-batch in proportion to their weights, or by temperature sampling, and every M
micro-batches make a global step. A curriculum changes weights, and the longest sample of the windows to come, at given
steps. The plan does not depend on ranks or workers: rank r of N takes micro-batches r, r + N, …

Cost: memory and time of a window. Its state names the window, the place in it and the carried samples, so resuming
plans one window again.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from pipeline.data.dataset_stream import Stream
from pipeline.data.index_rows import PlanSource
from pipeline.data.keyed_random import keyed_uniform
from pipeline.data.plan_identity import dataset_differences, identity, matched_places, recipe_differences
from pipeline.data.planned import GlobalStep, MicroBatch, PlanSettings
from pipeline.data.token_counter import TokenCounter
from pipeline.recipe.schema import DatasetConfig, PhaseConfig
from shards.errors import PlanError

STATE_VERSION = 2
_GOLDEN = 0.6180339887498949  # its multiples modulo 1 are the most even sequence: shares are kept within any stretch


class Plan:
    """Global steps over one or more datasets. Iterate it; each step has the state to continue after it."""

    def __init__(
        self,
        sources: Sequence[PlanSource],
        shares: Sequence[DatasetConfig],
        settings: PlanSettings,
        counter: TokenCounter,
    ) -> None:
        """Args: ``shares`` are the datasets' entries in the recipe, in the order of ``sources``."""
        self.sources = tuple(sources)
        self.settings = settings
        self.streams = [
            Stream(i, source, share, settings, counter)
            for i, (source, share) in enumerate(zip(sources, shares, strict=True))
        ]
        self.step = 0
        self.identity = identity(sources, self.streams, settings)  # of data and settings, as JSON
        self._offset = keyed_uniform(settings.seed, "mixture")
        self._shares = [self._share(stream) for stream in self.streams]

    def __iter__(self) -> Iterator[GlobalStep]:
        """Steps from the plan's position; endless unless ``epochs`` is set."""
        size = self.settings.data.micro_batches_per_step
        while True:
            phase = self._phase(self.step + 1)
            ended: set[int] = set()  # datasets whose epoch ended in this step, with align_epochs
            batches = [self._next(self.step * size + m, phase, ended) for m in range(size)]
            if all(b is None for b in batches):
                return
            self.step += 1
            yield GlobalStep(self.step, tuple(batches), self.state_dict() | {"epoch_ended": bool(ended)})

    def state_dict(self) -> dict[str, Any]:
        """Position and identity of the plan, as JSON; independent of ranks and workers."""
        return {
            "version": STATE_VERSION,
            **self.identity,
            "step": self.step,
            "streams": [s.state_dict() for s in self.streams],
        }

    def load_state_dict(self, state: dict[str, Any], accept_dataset_change: bool = False) -> None:
        """Restore a saved position.

        Args:
            accept_dataset_change: datasets may differ from the saved plan's if each one that changed or was removed is
                between two epochs; it continues with the next epoch, a new dataset starts with its first.

        Raises:
            PlanError: the saved plan has other data, another recipe or another seed; the error lists the differences.
        """
        if state.get("version") != STATE_VERSION:
            raise PlanError(f"the data state has version {state.get('version')}, this code reads {STATE_VERSION}")
        changed = list(recipe_differences(state, self.identity))
        if not accept_dataset_change:
            changed += dataset_differences(state, self.identity)
        if changed:
            raise PlanError(
                "the data position cannot be resumed, because the plan changed: " + "; ".join(changed) + ". "
                "Restore what changed, or start a new run from the weights of this one; datasets alone may be changed "
                "between two epochs, with --accept-dataset-change"
            )
        places = matched_places(state, self.identity)
        self.step = state["step"]
        for stream, saved in zip(self.streams, places, strict=True):
            if saved is not None:
                stream.load_state_dict(saved)

    def _phase(self, step: int) -> PhaseConfig:
        """The curriculum's phase of a step (from 1); if its datasets have ended, the next phase with a live one."""
        phases = [PhaseConfig(from_step=1), *self.settings.data.curriculum]
        begun = sum(p.from_step <= step for p in phases[1:])
        return next((p for p in phases[begun:] if self._live(p)), phases[begun])

    def _live(self, phase: PhaseConfig) -> list[Stream]:
        """Datasets of a phase that have not ended."""
        weights = self._weights(phase)
        return [s for s in self.streams if not s.done and weights[s.number] > 0]

    def _weights(self, phase: PhaseConfig) -> list[float]:
        return phase.weights or self._shares

    def _share(self, stream: Stream) -> float:
        """Share of a dataset in the mixture, before normalising: its weight, or that of temperature sampling."""
        temperature = self.settings.data.temperature
        if temperature is None:
            return stream.share.weight
        return stream.share.weight * stream.selection.hours ** (1 / temperature)

    def _next(self, counter: int, phase: PhaseConfig, ended: set[int]) -> MicroBatch | None:
        """Micro-batch number ``counter`` of the run: of the dataset whose share of [0, 1) the counter falls into."""
        weights = self._weights(phase)
        live = [s for s in self._live(phase) if s.number not in ended]
        while live:
            place = (self._offset + counter * _GOLDEN) % 1.0 * sum(weights[s.number] for s in live)
            for stream in live:
                place -= weights[stream.number]
                if place < 0:
                    break
            batch = stream.next(phase.max_seconds)
            if self.settings.data.align_epochs:
                stream.skip_empty(phase.max_seconds)
                if stream.between_epochs:
                    ended.add(stream.number)
            if batch is not None:
                return batch
            live = [s for s in live if not s.done and s.number not in ended]
        return None
