"""The workload of a run: steps, fill, its largest micro-batches; from the real plan or from sizes alone."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import Any

from pipeline.data.dialogue_lengths import counted_kinds
from pipeline.data.index_rows import DatasetSource
from pipeline.data.lengths import build_lengths, missing_lengths
from pipeline.data.plan import Plan
from pipeline.data.planned import MicroBatch, PlanSettings
from pipeline.data.token_counter import TokenCounter
from pipeline.flops import Load
from pipeline.frames import audio_positions, encoder_frames, padded_frames
from pipeline.recipe.schema import ContextConfig, DatasetConfig, Recipe
from pipeline.stages import STAGES, Task
from shards.dataset.dataset import Dataset, open_dataset
from shards.errors import PlanError
from shards.sample import SAMPLE_RATE


@dataclass(frozen=True)
class Typical:
    """Samples assumed without a dataset."""

    positions: int  # of a micro-batch
    clip_seconds: float = 45.0
    tokens_per_second: float = 5.0  # of target, names included
    prompt_tokens: int = 40
    registered: int = 17  # on average over the three modes: a third of 0, 3 and 3 + 25, with room
    tokens_per_name: int = 8
    tokens_per_term: int = 4  # of a line of context, its comma included
    turn_seconds: float = 4.0  # of an utterance, which is an observation of a dialogue
    question_tokens: int = 150  # of a dialogue's first turn, the summary included
    tokens_per_turn: int = 75  # of an observation beside its words: its bounds, its line twice, what is around a turn


@dataclass(frozen=True)
class Work:
    """Sizes of a run; ``step`` figures are of a global step."""

    source: str
    micro_batches: int  # M
    positions_per_step: float
    audio_seconds_per_step: float
    targets_per_step: float
    fill: float  # LLM positions of the budget
    padding: float  # encoder frames that are padding
    loads: tuple[Load, ...]  # of the micro-batches looked at
    largest: tuple[Load, ...]  # those that could need most memory
    hours: float | None  # of all datasets, as the recipe takes them
    planned: tuple[MicroBatch, ...] = field(default=(), repr=False)  # in the order of ``largest``


def work_from_sizes(recipe: Recipe, typical: Typical) -> Work:
    """A run whose micro-batches are all alike and full.

    Raises:
        PlanError: not even one such clip fits a micro-batch.
    """
    stride = recipe.model.stride
    heard = [round(typical.clip_seconds * SAMPLE_RATE)]  # samples of each audio
    registered = typical.registered if STAGES[recipe.stage].registration else 0
    words = round(typical.clip_seconds * typical.tokens_per_second) + 1
    if Task.REASON in STAGES[recipe.stage].tasks:  # the whole, then every utterance; words in a thought and the answer
        turns = max(1, round(typical.clip_seconds / typical.turn_seconds))
        heard += [round(typical.clip_seconds / turns * SAMPLE_RATE)] * turns
        targets = 2 * words + turns * typical.tokens_per_turn
        prompt = typical.question_tokens
    else:
        targets, prompt = words, typical.prompt_tokens + registered * (1 + typical.tokens_per_name)
        prompt += _context_tokens(recipe.data.context, typical)
    audio, slices = sum(audio_positions(n, stride) for n in heard), tuple(encoder_frames(n) for n in heard)
    each = audio + prompt + targets
    of_frames = sum(padded_frames(n, recipe.model.encoder.frame_multiple) for n in slices)
    count = min(typical.positions // each, recipe.data.max_frames // of_frames)
    if count < 1:
        raise PlanError(
            f"a clip of {typical.clip_seconds:g} s takes {each} positions and {sum(slices)} frames; a micro-batch has "
            f"{typical.positions} and {recipe.data.max_frames}: plan with more positions or shorter clips"
        )
    last = each + typical.positions - count * each  # the rest is given to one sample, so that the micro-batch is full
    load = Load(
        samples=(each,) * (count - 1) + (last,),
        frames=slices * count,
        audio_positions=count * audio,
        speakers=max(1, count * registered),
        targets=count * targets,
        calls=recipe.data.encoder_calls,
    )
    m = recipe.data.micro_batches_per_step
    source = (
        f"sizes alone: {count} clips of {typical.clip_seconds:g} s with {registered} registered speakers and "
        f"{targets} target tokens" + (f" and {len(slices) - 1} observations each" if len(slices) > 1 else " each")
    )
    return Work(
        source=source,
        micro_batches=m,
        positions_per_step=m * load.positions,
        audio_seconds_per_step=m * count * typical.clip_seconds,
        targets_per_step=m * load.targets,
        fill=load.positions / typical.positions,
        padding=0.0,
        loads=(load,),
        largest=(load,),
        hours=None,
    )


def _context_tokens(context: ContextConfig, typical: Typical) -> int:
    """Mean tokens of the line of context."""
    terms = (context.max_terms + context.max_distractors) / 2
    return round(context.share * terms * typical.tokens_per_term)


def _without_noise(recipe: Recipe) -> Recipe:
    """The same plan without the noise folder, which may be missing here and changes no length."""
    augment = replace(recipe.data.augment, noise=None)
    return replace(recipe, data=replace(recipe.data, augment=augment))


def work_from_plan(recipe: Recipe, tokenizer: Any, steps: int, seen: Callable[[int], object] = int) -> Work:
    """A run as the first ``steps`` global steps of its plan show it. Reads indices and lengths, no audio.

    Token lengths that are not stored with the shards are counted into a temporary folder.
    """
    with tempfile.TemporaryDirectory(prefix="speakerlm-preflight-") as cache:
        datasets = [open_dataset(share.path) for share in recipe.data.train]
        sources = [_source(d, tokenizer, Path(cache), recipe) for d in datasets]
        settings = PlanSettings.of(_without_noise(recipe), tokenizer.hash)
        plan = Plan(sources, recipe.data.train, settings, TokenCounter(tokenizer))
        taken = []
        for step in islice(plan, steps):
            taken.append([b for b in step.micro_batches if b is not None])
            seen(len(taken))
    batches = [b for step in taken for b in step]
    loads = [b.load(recipe.model.stride, recipe.data.encoder_calls) for b in batches]
    largest = _largest(loads)
    audio = [sum(p.num_samples for p in b.samples) / SAMPLE_RATE for b in batches]
    return Work(
        source=f"the first {len(taken)} steps of the plan: {len(batches)} micro-batches",
        micro_batches=recipe.data.micro_batches_per_step,
        positions_per_step=sum(load.positions for load in loads) / len(taken),
        audio_seconds_per_step=sum(audio) / len(taken),
        targets_per_step=sum(load.targets for load in loads) / len(taken),
        fill=sum(load.positions for load in loads) / (len(loads) * recipe.data.max_positions),
        padding=1 - sum(sum(load.frames) for load in loads) / sum(load.padded_frames for load in loads),
        loads=tuple(loads),
        largest=tuple(loads[i] for i in largest),
        hours=sum(_hours(d, share) for d, share in zip(datasets, recipe.data.train, strict=True)),
        planned=tuple(batches[i] for i in largest),
    )


def _source(dataset: Dataset, tokenizer: Any, cache: Path, recipe: Recipe) -> DatasetSource:
    dialogues, terms = bool(STAGES[recipe.stage].tasks), recipe.data.context.share > 0
    kinds = counted_kinds(STAGES[recipe.stage].tasks, terms)
    if not any(missing_lengths(dataset, tokenizer.hash, kind=kind) for kind in kinds):
        return DatasetSource(dataset, tokenizer.hash, None, dialogues, terms)
    for kind in kinds:
        build_lengths(dataset, tokenizer, cache, kind=kind)
    return DatasetSource(dataset, tokenizer.hash, cache, dialogues, terms)


def _hours(dataset: Dataset, share: DatasetConfig) -> float:
    return share.hours if share.hours is not None else sum(s.seconds for s in dataset.shards) / 3600


def _largest(loads: Sequence[Load]) -> list[int]:
    """Places of the micro-batches that are the largest of some kind; one of them needs most memory."""
    kinds: Iterable[Callable[[Load], int]] = (
        lambda x: x.positions,
        lambda x: x.padded_frames,
        lambda x: x.padded_squares,
        lambda x: x.targets,
    )
    return sorted({max(range(len(loads)), key=lambda i: kind(loads[i])) for kind in kinds})
