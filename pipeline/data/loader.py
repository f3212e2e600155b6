"""Load this rank's micro-batches of planned global steps, ahead of training in worker processes.

Rank r of N takes micro-batches r, r + N, … of every step, ceil(M / N) of them, and an empty one if there are fewer.
Only the main process plans; workers get planned micro-batches and return tensors, in order. So the number of workers
changes nothing but speed. From remote storage a worker reads its next micro-batch while it decodes this one.

A sample whose bytes fail their crc, cannot be decoded or hold a vector that is not finite is replaced by a *spare*: a
short sample of the window's next micro-batch of the same mode that costs no more than the lost one (it is then seen
twice in the epoch). If no spare fits or is whole, the micro-batch continues without it. The choice depends on
plan and bytes alone. Every replacement is listed in the step and in its state. Storage errors are never replaced.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader

from pipeline.data.augment import Augmenter
from pipeline.data.collate import Batch, LoadedSample, batch_bytes, collate, empty_batch
from pipeline.data.handover import Handover
from pipeline.data.plan import Plan
from pipeline.data.plan_report import Cost, report
from pipeline.data.planned import CachedClip, GlobalStep, MicroBatch, PlannedSample
from pipeline.data.readahead import ReadAhead
from pipeline.data.registration import BankVector, VectorSource
from pipeline.data.workers import init_worker, owned
from pipeline.frames import Stride, perturbed_samples
from pipeline.prompts import PromptTokenizer
from pipeline.recipe.schema import DialogueConfig
from shards.dataset.dataset import Dataset
from shards.dataset.speaker_bank import SpeakerBank
from shards.errors import AudioError, DataError, SpeakerError, SpeakerLMError, StorageError, TrainingError
from shards.sample import Sample


@dataclass(frozen=True, slots=True)
class Fault:
    """A sample that could not be used, and what took its place."""

    dataset: str
    key: str
    reason: str
    replacement: str | None  # key; None: nothing


@dataclass(frozen=True)
class StepBatches:
    """This rank's share of a global step."""

    step: int
    micro_batches: list[Batch]
    state: dict[str, Any] = field(repr=False)  # to continue after this step
    replaced: tuple[Fault, ...] = ()  # samples of this rank that could not be used
    figures: dict[str, Any] = field(default_factory=dict)  # of the whole global step, see PlanReport


@dataclass(frozen=True)
class _Loaded:
    """Result of a worker. An error is returned as a value, so that it is raised with its own class."""

    batch: Batch | None
    faults: tuple[Fault, ...] = ()
    outcomes: tuple[bool, ...] = ()  # whether each sample that was read could be used, in order
    error: SpeakerLMError | None = None

    def pin_memory(self) -> _Loaded:
        """Called by the DataLoader's thread."""
        return self if self.batch is None else replace(self, batch=self.batch.pin_memory())


Task = tuple[MicroBatch | None, MicroBatch | None]  # what to load, and what the same process will load next


class SampleReader:
    """Reads planned samples and micro-batches. Safe to hand to another process."""

    def __init__(
        self,
        datasets: Sequence[Dataset],
        tokenizer: PromptTokenizer,
        stride: Stride,
        speaker_dim: int,
        augmenter: Augmenter | None = None,
        questions: int = 0,
        dialogue: DialogueConfig | None = None,
        encoder_calls: int = 1,
    ) -> None:
        self.questions = questions
        self.dialogue, self.encoder_calls = dialogue, encoder_calls
        self.datasets = tuple(datasets)
        self.augmenter = augmenter
        self._ahead = ReadAhead()
        self.tokenizer = tokenizer
        self.stride = stride
        self.speaker_dim = speaker_dim

    def load(self, planned: PlannedSample) -> LoadedSample:
        """Read, check and decode one sample.

        Raises:
            ShardError, AudioError, SpeakerError: its bytes are not what was packed, or unusable.
            StorageError: the storage failed.
        """
        sample, wave = self._decoded(planned.dataset, planned.shard, planned.row, planned)
        cached = tuple(self._decoded(planned.dataset, clip.shard, clip.row, clip) for clip in planned.cached)
        vectors = self._vectors(planned, sample)
        if self.augmenter is None:
            return LoadedSample(planned, sample, wave, vectors, cached=cached)
        wave = self.augmenter.wave(wave, planned.speed, planned.seed)
        masks = self.augmenter.masks(len(wave), planned.seed)
        return LoadedSample(planned, sample, wave, vectors, *masks, cached=cached)

    def _decoded(
        self, dataset: int, shard: int, row: int, wanted: PlannedSample | CachedClip
    ) -> tuple[Sample, np.ndarray]:
        """A sample and its audio, checked to be as long as planned."""
        place, data = self._ahead.take(self.datasets[dataset], shard, row)
        sample = place.parse(data, audio=False)
        try:
            wave = place.decode(data)
        except AudioError as e:
            raise AudioError(f"{place.tar}: {wanted.key}: {e}") from e
        speed = wanted.speed if isinstance(wanted, PlannedSample) else 1.0
        if perturbed_samples(len(wave), speed) != wanted.num_samples:
            raise AudioError(
                f"{place.tar}: {wanted.key}: {len(wave)} samples of audio at speed {speed}, planned were "
                f"{wanted.num_samples}; the index is of another sample"
            )
        return sample, wave

    def __getitem__(self, task: Task) -> _Loaded:
        """A packed micro-batch; an empty one for None. Starts reading what this process loads next."""
        planned, following = task
        try:
            for batch in (planned, following):
                self._announce(batch)
            return self._load_batch(planned) if planned is not None else _Loaded(self._empty)
        except SpeakerLMError as e:
            return _Loaded(None, error=e)

    @property
    def remote(self) -> bool:
        """Whether a dataset is remote, so that reading ahead saves time."""
        return any(d.storage.local_path("") is None for d in self.datasets)

    def _announce(self, batch: MicroBatch | None) -> None:
        if batch is not None:
            rows = [(s.shard, s.row) for s in batch.samples]
            rows += [(clip.shard, clip.row) for s in batch.samples for clip in s.cached]
            self._ahead.announce(self.datasets[batch.dataset], rows)

    @cached_property
    def _empty(self) -> Batch:
        return empty_batch(self.tokenizer, self.stride, self.speaker_dim, self.encoder_calls)

    def _load_batch(self, planned: MicroBatch) -> _Loaded:
        name = self.datasets[planned.dataset].name
        whole: list[LoadedSample] = []
        faults: list[Fault] = []
        outcomes: list[bool] = []
        spares = list(planned.spares)
        longest = max(p.frames for p in planned.samples)
        for wanted in planned.samples:
            fitting = [p for p in spares if p.positions <= wanted.positions and p.frames <= longest]
            loaded, bad = self._first_whole([wanted, *fitting])
            outcomes += [False] * len(bad) + [True] * (loaded is not None)
            replacement = loaded.planned.key if loaded else None
            faults += [Fault(name, key, reason, replacement) for key, reason in bad]
            if loaded:
                whole.append(loaded)
                spares = [p for p in spares if p is not loaded.planned]
        batch = (
            collate(
                whole,
                self.tokenizer,
                self.stride,
                self.speaker_dim,
                name,
                self.questions,
                self.dialogue,
                self.encoder_calls,
            )
            if whole
            else self._empty
        )
        return _Loaded(batch, tuple(faults), tuple(outcomes))

    def _first_whole(self, choice: Sequence[PlannedSample]) -> tuple[LoadedSample | None, list[tuple[str, str]]]:
        """The first sample that can be used, and (key, reason) of those before it."""
        bad: list[tuple[str, str]] = []
        for planned in choice:
            try:
                return self.load(planned), bad
            except StorageError:
                raise
            except DataError as e:
                bad.append((planned.key, f"{type(e).__name__}: {e}"))
        return None, bad

    def _vectors(self, planned: PlannedSample, sample: Sample) -> np.ndarray:
        """(registered, dim) float32, in prompt order."""
        rows = [self._vector(source, planned, sample) for source in planned.sources]
        vectors = np.stack(rows).astype(np.float32) if rows else np.zeros((0, self.speaker_dim), np.float32)
        if vectors.shape[1] != self.speaker_dim:
            raise SpeakerError(
                f"{planned.key}: speaker vectors have {vectors.shape[1]} dimensions, the model takes {self.speaker_dim}"
            )
        if not np.isfinite(vectors).all():
            raise SpeakerError(f"{planned.key}: a speaker vector is not finite")
        return vectors

    def _vector(self, source: VectorSource, planned: PlannedSample, sample: Sample) -> np.ndarray:
        """A distractor's vector from its bank; a clip speaker's from the sample, else from the dataset's bank."""
        if isinstance(source, BankVector):
            return np.asarray(self._bank(source.dataset, planned).vectors[source.row])
        if sample.embeddings is not None:
            return np.asarray(sample.embeddings[source.speaker])
        bank = self._bank(planned.dataset, planned)
        return np.asarray(bank.vectors[bank.row(sample.speakers[source.speaker])])

    def _bank(self, dataset: int, planned: PlannedSample) -> SpeakerBank:
        bank = self.datasets[dataset].speakers
        if bank is None:
            raise SpeakerError(f"{planned.key}: dataset {self.datasets[dataset].name} has no speaker vectors")
        return bank


class Loader:
    """Iterable of :class:`StepBatches`, from the plan's position. One iteration per loader."""

    def __init__(
        self,
        plan: Plan,
        reader: SampleReader,
        *,
        rank: int = 0,
        world_size: int = 1,
        workers: int = 0,
        prefetch_steps: int = 2,
        max_consecutive_replacements: int = 100,
        pin_memory: bool = False,
        replaced: Sequence[dict[str, Any]] = (),
        cost: Cost | None = None,
    ) -> None:
        """Check that every rank gets a micro-batch.

        Args:
            replaced: samples replaced so far in this run, as the state that the plan resumed from lists them.
            cost: of a micro-batch, for the figures of a step; None: LLM positions.
        """
        size = plan.settings.data.micro_batches_per_step
        if world_size > size:
            raise DataError(
                f"{world_size} ranks share {size} micro-batches a step, some would never learn; raise "
                "data.micro_batches_per_step or start fewer ranks"
            )
        self.plan = plan
        self._reader = reader
        self._rank, self._world_size = rank, world_size
        self._rounds = -(-size // world_size)
        self._workers = workers
        self._ahead = max(1, -(-prefetch_steps * self._rounds // workers)) if workers else None
        self._pin_memory = pin_memory
        self._limit = max_consecutive_replacements
        self._in_a_row = 0
        self._replaced = list(replaced)
        self._cost = cost
        self._pending: deque[GlobalStep] = deque()

    def __iter__(self) -> Iterator[StepBatches]:
        """Steps until the plan ends.

        Raises:
            DataError: too many samples in a row could not be used.
            StorageError, PlanError: as they occur while reading and planning.
            TrainingError: a worker process died.
        """
        os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")  # the tokenizer's threads do not survive a fork
        with closing(owned(lambda: iter(self._data_loader()))) as loaded:
            while True:
                results = [r for _ in range(self._rounds) if (r := self._next(loaded)) is not None]
                if not results:
                    return
                yield self._step(results)

    def _data_loader(self) -> DataLoader[Any]:
        dataset: Any = self._reader
        if self._ahead is not None:
            in_use = -(-2 * self._rounds // self._workers)  # a step in training, one that is being collected
            size = batch_bytes(self.plan.settings.data)
            dataset = Handover(self._reader.__getitem__, self._workers, self._ahead + in_use + 1, size)
        return DataLoader(
            dataset,
            batch_size=None,
            sampler=self._tasks(),
            num_workers=self._workers,
            prefetch_factor=self._ahead,
            collate_fn=_identity,
            worker_init_fn=init_worker,
            generator=torch.Generator(),  # else it draws from torch's global one
            pin_memory=self._pin_memory,
        )

    def _tasks(self) -> Iterator[Task]:
        """Each micro-batch, and from remote storage the one that the same worker gets after it: they take turns."""
        if not self._reader.remote:
            yield from ((batch, None) for batch in self._planned())
            return
        turns = max(1, self._workers)
        ahead: deque[MicroBatch | None] = deque()
        for batch in self._planned():
            ahead.append(batch)
            if len(ahead) > turns:
                yield ahead.popleft(), batch
        while ahead:
            yield ahead.popleft(), None

    def _planned(self) -> Iterator[MicroBatch | None]:
        """This rank's micro-batches in order; runs ahead of what is yielded."""
        for step in self.plan:
            self._pending.append(step)
            for place in range(self._rank, self._rounds * self._world_size, self._world_size):
                yield step.micro_batches[place] if place < len(step.micro_batches) else None

    def _next(self, loaded: Iterator[_Loaded]) -> _Loaded | None:
        try:
            result = next(loaded, None)
        except RuntimeError as e:
            if not any(words in str(e) for words in ("DataLoader worker", "Pin memory thread exited")):
                raise
            raise TrainingError(_worker_died(str(e))) from e
        except (ConnectionError, EOFError, FileNotFoundError) as e:
            # Raised while a batch is fetched from its worker; reading a shard raises other classes.
            raise TrainingError(_worker_died(f"a DataLoader worker ended while it handed a batch over ({e!r})")) from e
        if result is not None and result.error is not None:
            raise result.error
        return result

    def _step(self, results: Sequence[_Loaded]) -> StepBatches:
        step = self._pending.popleft()
        for result in results:
            self._count(result)
        batches = [r.batch for r in results if r.batch is not None]
        faults = tuple(f for r in results for f in r.faults)
        self._replaced += [{"step": step.step, "dataset": f.dataset, "key": f.key, "reason": f.reason} for f in faults]
        state = {**step.state, "replaced": list(self._replaced)}
        figures = report([step], self.plan.settings, self._world_size, self._cost).row()
        return StepBatches(step.step, batches, state, faults, figures)

    def _count(self, result: _Loaded) -> None:
        """Count bad samples in a row; raise DataError above the limit."""
        for whole in result.outcomes:
            self._in_a_row = 0 if whole else self._in_a_row + 1
            if self._in_a_row > self._limit:
                last = result.faults[-1]
                raise DataError(
                    f"dataset {last.dataset}: {self._in_a_row} samples in a row cannot be used, more than "
                    f"data.max_consecutive_replacements {self._limit}; the last was {last.key}: {last.reason}. "
                    "Check the dataset with speakerlm-shards verify"
                )


def _worker_died(what: str) -> str:
    return f"{what.rstrip('. ')}. If the machine ran out of memory, lower data.workers or data.prefetch_steps"


def _identity(loaded: Any) -> Any:
    return loaded
