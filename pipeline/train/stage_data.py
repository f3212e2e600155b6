"""A stage's datasets: planned, loaded and shared among the ranks."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

from pipeline.data.augment import Augmenter
from pipeline.data.collate import Batch
from pipeline.data.identity import check_same
from pipeline.data.index_rows import DatasetSource
from pipeline.data.lengths import build_lengths
from pipeline.data.loader import Loader, SampleReader, StepBatches
from pipeline.data.plan import Plan
from pipeline.data.planned import PlanSettings
from pipeline.data.token_counter import TokenCounter
from pipeline.prompts import Mode, PromptTokenizer
from pipeline.ranks.collectives import all_gather_or_raise
from pipeline.ranks.launch import Ranks
from pipeline.recipe.schema import AugmentConfig, DatasetConfig, Recipe
from pipeline.stages import STAGES
from shards.dataset.cache import cache_shards
from shards.dataset.dataset import Dataset, open_dataset
from shards.errors import ConfigError

VALIDATION_SEED = (
    0  # of every run: what runs of different seeds are worth is told by the same samples in the same modes
)
MAX_COUNTING = 32  # processes of a node that count tokens; each holds a part of a shard


class StageData:
    """A stage's planned and loaded batches, as the trainer asks for them."""

    def __init__(self, recipe: Recipe, ranks: Ranks, tokenizer: PromptTokenizer) -> None:
        """Open the datasets and count their tokens where that has not been done yet."""
        self._recipe, self._ranks, self._tokenizer = recipe, ranks, tokenizer
        self._lengths = Path(recipe.data.lengths_cache) if recipe.data.lengths_cache else None
        self._cache_left = recipe.data.shard_cache_gb * 1e9
        self._train = self._open(recipe.data.train)
        self._validation = self._open(recipe.data.validation)
        self.validation_sets, self.tokenizer = self._validation, tokenizer
        self.train_names = [d.name for d in self._train]
        self.validation_names = [d.name for d in self._validation]

    def train(self, state: dict[str, Any] | None) -> Iterator[StepBatches]:
        """Global steps; without end, unless every dataset is given its number of epochs."""
        augmenter = Augmenter(self._recipe.data.augment)
        settings = self._settings()
        if augmenter.noises is not None:
            settings = replace(settings, noise=augmenter.noises.fingerprint)
        plan = self._plan(self._train, self._recipe.data.train, settings)
        if state is not None:
            plan.load_state_dict(state, self._recipe.data.accept_dataset_change)
        data = self._recipe.data
        return told(iter(self._loader(plan, self._train, data.workers, augmenter, data.speaker_questions)))

    def validation(self) -> Iterator[tuple[Sequence[Batch], int]]:
        """The first ``validation_batches`` micro-batches of a plan that does not change; each sample in every mode.

        Yields:
            This rank's micro-batches of a step, and how many of their samples stand for damaged ones.
        """
        stage = STAGES[self._recipe.stage]
        modes = (Mode.NO, Mode.MATCH, Mode.OVER) if stage.registration else None
        data = replace(self._recipe.data, augment=AugmentConfig(), curriculum=[], align_epochs=False)
        settings = replace(self._settings(), seed=VALIDATION_SEED, data=data, epochs=1, modes=modes)
        plan = self._plan(self._validation, self._recipe.data.validation, settings)
        steps = math.ceil(self._recipe.trainer.validation_batches / self._recipe.data.micro_batches_per_step)
        loader = self._loader(plan, self._validation, min(1, self._recipe.data.workers))
        taken = told(islice(loader, steps), "validation ")
        return ((step.micro_batches, len(step.stats.replaced)) for step in taken)

    def _open(self, shares: Sequence[DatasetConfig]) -> list[Dataset]:
        datasets = [open_dataset(share.path, share.extractor) for share in shares]
        for dataset in datasets:
            made = dataset.extractor_id()
            if made is not None and made != self._recipe.model.extractor:
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
        """Once a node: the folder for the lengths may be its own. Where it is shared, so is the work."""
        begin_at = self._ranks.rank / self._ranks.world_size
        for dataset in datasets:
            workers = min(MAX_COUNTING, len(os.sched_getaffinity(0)))
            build_lengths(dataset, self._tokenizer, self._lengths, workers=workers, begin_at=begin_at)

    def _settings(self) -> PlanSettings:
        return PlanSettings(
            seed=self._recipe.seed,
            registration=STAGES[self._recipe.stage].registration,
            stride=self._recipe.model.projector.stride,
            tokenizer=self._tokenizer.hash,
            data=self._recipe.data,
        )

    def _plan(self, datasets: Sequence[Dataset], shares: Sequence[DatasetConfig], settings: PlanSettings) -> Plan:
        """The same plan on every rank; each reads its data for itself. Collective."""
        plans: list[Plan] = []

        def made_of() -> dict[str, Any]:
            sources = [DatasetSource(d, self._tokenizer.hash, self._lengths) for d in datasets]
            plans.append(Plan(sources, shares, settings, TokenCounter(self._tokenizer)))
            return plans[0].identity

        check_same(all_gather_or_raise(self._ranks, made_of))
        return plans[0]

    def _loader(
        self,
        plan: Plan,
        datasets: Sequence[Dataset],
        workers: int,
        augmenter: Augmenter | None = None,
        questions: int = 0,
    ) -> Loader:
        model, data = self._recipe.model, self._recipe.data
        reader = SampleReader(
            datasets, self._tokenizer, model.projector.stride, model.speaker_dim, augmenter, questions
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
        )


def told(steps: Iterator[StepBatches], of: str = "") -> Iterator[StepBatches]:
    """The same steps; each replaced sample gets a line in the log of the rank that met it."""
    for step in steps:
        for fault in step.stats.replaced:
            print(f"WARNING {of}step {step.step}: {fault.key} of {fault.dataset} replaced: {fault.reason}", flush=True)
        yield step
