"""The plan: which samples, in which mode, in which micro-batch of which global step.

A pure function of (index, lengths, recipe, seed). Per dataset and epoch:

1. The shards are permuted and taken in windows of ``window_shards``.
2. Every sample of a window draws its mode, its registered speakers and their names, keyed by (seed, epoch, key).
3. The samples of one mode are packed into micro-batches by two budgets (packing.py); the window's micro-batches are
   shuffled. What could not fill one is carried into the next window; the last window of an epoch empties everything.

Datasets are interleaved per micro-batch in proportion to their weights, and every M micro-batches make a global step.
A curriculum changes weights, and the longest sample of the windows to come, at given steps.
Nothing here knows of ranks or workers: rank r of N takes micro-batches r, r + N, …

Cost: memory and time of a window. Its state names the window, the place in it and the carried samples, so resuming
plans one window again.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from pipeline.data.identity import dataset_differences, identity, matched_places, recipe_differences
from pipeline.data.index_rows import PlanSource
from pipeline.data.keyed_random import keyed_uniform
from pipeline.data.planned import GlobalStep, MicroBatch, PlanSettings
from pipeline.data.stream import Stream
from pipeline.data.token_counter import TokenCounter
from pipeline.recipe.schema import DatasetConfig, PhaseConfig
from shards.errors import PlanError

STATE_VERSION = 2
_GOLDEN = 0.6180339887498949  # its multiples modulo 1 are the most even sequence: shares are kept within any stretch


class Plan:
    """Global steps over one or more datasets. Iterate it; each step carries the state to go on after it."""

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
        self.identity = identity(sources, self.streams, settings)  # what it is made of, as JSON
        self._offset = keyed_uniform(settings.seed, "mixture")

    def __iter__(self) -> Iterator[GlobalStep]:
        """From where the plan stands; ends only where ``epochs`` is set."""
        size = self.settings.data.micro_batches_per_step
        while True:
            phase = self._phase(self.step + 1)
            ended: set[int] = set()  # datasets whose epoch ended in this step, where a step ends with an epoch
            batches = [self._next(self.step * size + m, phase, ended) for m in range(size)]
            if all(b is None for b in batches):
                return
            self.step += 1
            yield GlobalStep(self.step, tuple(batches), self.state_dict() | {"epoch_ended": bool(ended)})

    def state_dict(self) -> dict[str, Any]:
        """Where the plan stands and what it was made of, as JSON. Knows nothing of ranks or workers."""
        return {
            "version": STATE_VERSION,
            **self.identity,
            "step": self.step,
            "streams": [s.state_dict() for s in self.streams],
        }

    def load_state_dict(self, state: dict[str, Any], accept_dataset_change: bool = False) -> None:
        """Stand where another plan stood.

        Args:
            accept_dataset_change: datasets may be others than that plan's, where each that changed or is gone stood
                between two epochs; it then goes on with the next epoch, a new one with its first.

        Raises:
            PlanError: that plan was made of other data, another recipe or another seed; says which.
        """
        if state.get("version") != STATE_VERSION:
            raise PlanError(f"the data state has version {state.get('version')}, this code reads {STATE_VERSION}")
        changed = list(recipe_differences(state, self.identity))
        if not accept_dataset_change:
            changed += dataset_differences(state, self.identity)
        if changed:
            raise PlanError(
                "the data position cannot be resumed, because the plan is another one: " + "; ".join(changed) + ". "
                "Restore what changed, or start a new run from the weights of this one; datasets alone may be changed "
                "between two epochs, with --accept-dataset-change"
            )
        places = matched_places(state, self.identity)
        self.step = state["step"]
        for stream, saved in zip(self.streams, places, strict=True):
            if saved is not None:
                stream.load_state_dict(saved)

    def _phase(self, step: int) -> PhaseConfig:
        """The phase of the curriculum that this step (from 1) lies in; where its datasets have ended, the next one."""
        phases = [PhaseConfig(from_step=1), *self.settings.data.curriculum]
        begun = sum(p.from_step <= step for p in phases[1:])
        return next((p for p in phases[begun:] if self._live(p)), phases[begun])

    def _live(self, phase: PhaseConfig) -> list[Stream]:
        """Datasets that a phase draws from and that have not ended."""
        weights = self._weights(phase)
        return [s for s in self.streams if not s.done and weights[s.number] > 0]

    def _weights(self, phase: PhaseConfig) -> list[float]:
        return phase.weights or [s.share.weight for s in self.streams]

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
                stream.pass_empty(phase.max_seconds)
                if stream.between_epochs:
                    ended.add(stream.number)
            if batch is not None:
                return batch
            live = [s for s in live if not s.done and s.number not in ended]
        return None
