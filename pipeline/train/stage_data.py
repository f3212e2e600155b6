"""A stage's datasets: planned, loaded and shared among the ranks."""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

from pipeline.data.augment import Augmenter
from pipeline.data.collate import Batch
from pipeline.data.dialogue_lengths import counted_kinds
from pipeline.data.index_rows import DatasetSource
from pipeline.data.lengths import build_lengths
from pipeline.data.loader import Loader, SampleReader, StepBatches
from pipeline.data.plan import Plan
from pipeline.data.plan_identity import check_same
from pipeline.data.plan_report import flops_of
from pipeline.data.planned import PlanSettings
from pipeline.data.token_counter import TokenCounter
from pipeline.flops import Meter
from pipeline.prompts import Mode, PromptTokenizer
from pipeline.ranks.collectives import all_gather_or_raise, gather_unique
from pipeline.ranks.launch import Ranks
from pipeline.recipe.schema import AugmentConfig, ContextConfig, DatasetConfig, Recipe
from pipeline.stages import STAGES, Base
from shards.dataset.cache import cache_shards
from shards.dataset.dataset import Dataset, open_dataset
from shards.errors import ConfigError

# The same in every run: runs of different seeds are compared on the same samples in the same modes.
VALIDATION_SEED = 0
logger = logging.getLogger(__name__)

MAX_COUNTING = 32  # processes of a node that count tokens; each holds a part of a shard


class StageData:
    """A stage's planned and loaded batches, as the trainer asks for them."""

    def __init__(self, recipe: Recipe, ranks: Ranks, tokenizer: PromptTokenizer, meter: Meter | None = None) -> None:
        """Open the datasets and build missing token lengths. Collective.

        Args:
            meter: operations of the run's model, for the imbalance in the log; None: LLM positions are counted instead.
        """
        self._recipe, self._ranks, self.tokenizer = recipe, ranks, tokenizer
        self._cost = flops_of(meter, recipe.model.stride, recipe.data.encoder_calls) if meter else None
        self._reads_vectors = recipe.model.base == Base.SPEAKERLM
        self._lengths = Path(recipe.data.lengths_cache) if recipe.data.lengths_cache else None
        self._cache_left = recipe.data.shard_cache_gb * 1e9
        self.train_sets = self._open(recipe.data.train)
        self.validation_sets = self._open(recipe.data.validation)
        self.train_names = [d.name for d in self.train_sets]
        self.validation_names = [d.name for d in self.validation_sets]

    def train(self, state: dict[str, Any] | None) -> Iterator[StepBatches]:
        """Global steps; endless unless every dataset has a number of epochs."""
        data, plan = self._recipe.data, self.training_plan()
        if state is not None:
            plan.load_state_dict(state, data.accept_dataset_change)
        replaced = state["replaced"] if state is not None else ()
        augmenter = Augmenter(data.augment)
        loader = self._loader(plan, self.train_sets, data.workers, augmenter, data.speaker_questions, replaced)
        return with_warnings(iter(loader))

    def training_plan(self) -> Plan:
        """The training plan at its start, checked to be the same on every rank. Collective."""
        return self._plan(self.train_sets, self._recipe.data.train, self.plan_settings())

    def merged_state(self, state: dict[str, Any]) -> dict[str, Any]:
        """A step's state with the replaced samples of all ranks: each knows its own only. Collective."""
        return {**state, "replaced": gather_unique(self._ranks, state["replaced"])}

    def validation(self) -> Iterator[tuple[Sequence[Batch], int]]:
        """The first ``validation_batches`` micro-batches of a plan that does not change; each sample in every mode.

        Yields:
            This rank's micro-batches of a step, and how many of their samples are replaced.
        """
        stage = STAGES[self._recipe.stage]
        modes = stage.tasks or ((Mode.NO, Mode.MATCH, Mode.OVER) if stage.registration else None)
        data = replace(
            self._recipe.data,
            augment=AugmentConfig(),
            context=ContextConfig(),  # so that losses compare with those of runs without it
            curriculum=[],
            align_epochs=False,
        )
        settings = PlanSettings.of(replace(self._recipe, data=data), self.tokenizer.hash)
        settings = replace(settings, seed=VALIDATION_SEED, epochs=1, modes=modes)
        plan = self._plan(self.validation_sets, self._recipe.data.validation, settings)
        steps = math.ceil(self._recipe.trainer.validation_batches / self._recipe.data.micro_batches_per_step)
        loader = self._loader(plan, self.validation_sets, min(1, self._recipe.data.workers))
        taken = with_warnings(islice(loader, steps), "validation ")
        return ((step.micro_batches, len(step.replaced)) for step in taken)

    def _open(self, shares: Sequence[DatasetConfig]) -> list[Dataset]:
        datasets = [open_dataset(share.path, share.extractor) for share in shares]
        for dataset in datasets:
            made = dataset.extractor_id()
            if self._reads_vectors and made is not None and made != self._recipe.model.extractor:
                raise ConfigError(
                    f"{dataset.url}: its speaker vectors are of {made}, the recipe's model.extractor is "
                    f"{self._recipe.model.extractor}; name that one, or embed with it and set the dataset's extractor"
                )
            if STAGES[self._recipe.stage].registration and dataset.speakers is None:
                raise ConfigError(
                    f"{dataset.url}: has no speaker bank, and stage {self._recipe.stage} registers speakers who are "
                    "absent; copy the dataset whole, or pack it with enrolment clips"
                )
        counts = 0 in (self._ranks.local_rank, self._ranks.rank)
        all_gather_or_raise(self._ranks, lambda: self._count_tokens(datasets) if counts else None)
        if self._recipe.data.shard_cache:
            for dataset in datasets:
                self._cache_left -= cache_shards(dataset, self._recipe.data.shard_cache, self._cache_left)
        return datasets

    def _count_tokens(self, datasets: Sequence[Dataset]) -> None:
        """On one rank per node, since the folder may be local to the node; nodes that share it share the work."""
        begin_at = self._ranks.rank / self._ranks.world_size
        for dataset in datasets:
            workers = min(MAX_COUNTING, len(os.sched_getaffinity(0)))
            for kind in counted_kinds(STAGES[self._recipe.stage].tasks, self._recipe.data.context.share > 0):
                build_lengths(dataset, self.tokenizer, self._lengths, workers=workers, begin_at=begin_at, kind=kind)

    def plan_settings(self) -> PlanSettings:
        """Settings of the training plan."""
        return PlanSettings.of(self._recipe, self.tokenizer.hash)

    def _plan(self, datasets: Sequence[Dataset], shares: Sequence[DatasetConfig], settings: PlanSettings) -> Plan:
        """The plan, checked to be the same on every rank: each reads its data itself. Collective."""
        plans: list[Plan] = []

        def identity() -> dict[str, Any]:
            dialogues, terms = bool(settings.tasks), settings.data.context.share > 0
            sources = [DatasetSource(d, self.tokenizer.hash, self._lengths, dialogues, terms) for d in datasets]
            plans.append(Plan(sources, shares, settings, TokenCounter(self.tokenizer)))
            return plans[0].identity

        check_same(all_gather_or_raise(self._ranks, identity))
        return plans[0]

    def _loader(
        self,
        plan: Plan,
        datasets: Sequence[Dataset],
        workers: int,
        augmenter: Augmenter | None = None,
        questions: int = 0,
        replaced: Sequence[dict[str, Any]] = (),
    ) -> Loader:
        model, data = self._recipe.model, self._recipe.data
        reader = SampleReader(
            datasets,
            self.tokenizer,
            model.stride,
            model.speaker_dim,
            augmenter,
            questions,
            data.dialogue,
            data.encoder_calls,
        )
        return Loader(
            plan,
            reader,
            rank=self._ranks.rank,
            world_size=self._ranks.world_size,
            workers=workers,
            prefetch_steps=data.prefetch_steps,
            max_consecutive_replacements=data.max_consecutive_replacements,
            pin_memory=self._ranks.device.type == "cuda",
            replaced=replaced,
            cost=self._cost,
        )


def with_warnings(steps: Iterator[StepBatches], of: str = "") -> Iterator[StepBatches]:
    """The same steps; a warning for each replaced sample, on the rank that read it."""
    for step in steps:
        for fault in step.replaced:
            logger.warning("%sstep %d: %s of %s replaced: %s", of, step.step, fault.key, fault.dataset, fault.reason)
        yield step
