"""Dialogues from plan to batch: counted exactly, drawn by key, resumed at any step."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from pipeline.data.collate import Batch, collate, empty_batch
from pipeline.data.dialogue_lengths import DIALOGUES
from pipeline.data.index_rows import DatasetSource
from pipeline.data.lengths import build_lengths
from pipeline.data.loader import SampleReader
from pipeline.data.plan import Plan
from pipeline.data.planned import GlobalStep, PlannedSample, PlanSettings
from pipeline.data.token_counter import TokenCounter
from pipeline.dialogue.reply import read_reply
from pipeline.frames import audio_positions
from pipeline.prompts import Part, PromptTokenizer
from pipeline.recipe.schema import CacheConfig, DataConfig, DatasetConfig, DialogueConfig
from pipeline.stages import STAGES, Task
from shards.dataset.dataset import Dataset, open_dataset
from shards.errors import PlanError
from tests.support.datasets import make_dataset
from tests.support.tiny import TEXTS, make_tokenizer

CALLS, STRIDE = 4, 2
CACHE = CacheConfig(share=0.8, min_seconds=0.2, max_seconds=0.8, total_seconds=3.0)
DIALOGUE = DialogueConfig(label_weight=2.0, time_weight=1.5, boundary_weight=0.5, cache=CACHE)


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> PromptTokenizer:
    return PromptTokenizer.from_folder(make_tokenizer(tmp_path_factory.mktemp("tokenizer"), TEXTS))


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory, tokenizer: PromptTokenizer) -> Dataset:
    made = make_dataset(
        tmp_path_factory.mktemp("data"), samples=40, pool_size=8, dim=16, sessions=True, seconds=(2.0, 4.0)
    )
    build_lengths(made, tokenizer)
    build_lengths(made, tokenizer, kind=DIALOGUES)
    return open_dataset(made.url)


def plan_of(dataset: Dataset, tokenizer: PromptTokenizer, stage: int = 13, **changes: object) -> Plan:
    data = DataConfig(
        train=[DatasetConfig(path=dataset.url)],
        dialogue=DIALOGUE,
        encoder_calls=CALLS,
        max_positions=4000,
        max_frames=4000,
        micro_batches_per_step=2,
        window_shards=2,
    )
    data = replace(data, **changes)  # type: ignore[arg-type]
    row = STAGES[stage]
    settings = PlanSettings(7, False, STRIDE, tokenizer.hash, data, epochs=1, tasks=row.tasks, cache=row.cache)
    source = DatasetSource(dataset, tokenizer.hash, dialogues=True)
    return Plan([source], data.train, settings, TokenCounter(tokenizer))


def planned(plan: Plan) -> Iterator[PlannedSample]:
    for step in plan:
        for batch in step.micro_batches:
            yield from batch.samples if batch else ()


def reader_of(dataset: Dataset, tokenizer: PromptTokenizer) -> SampleReader:
    return SampleReader([dataset], tokenizer, STRIDE, 16, None, 0, DIALOGUE, CALLS)


def collated(dataset: Dataset, tokenizer: PromptTokenizer, samples: list[PlannedSample]) -> Batch:
    reader = reader_of(dataset, tokenizer)
    return collate([reader.load(p) for p in samples], tokenizer, STRIDE, 16, "d", 0, DIALOGUE, CALLS)


@pytest.mark.parametrize("stage", [11, 12, 13])
def test_every_sample_comes_once_with_the_lengths_that_were_planned(
    dataset: Dataset, tokenizer: PromptTokenizer, stage: int
) -> None:
    keys = []
    plan = plan_of(dataset, tokenizer, stage)
    for step in plan:
        for micro in step.micro_batches:
            if micro is None:
                continue
            keys += [p.key for p in micro.samples]
            assert {p.mode for p in micro.samples} == {micro.mode}
            batch = collated(dataset, tokenizer, list(micro.samples))  # raises where it differs from the plan
            assert len(batch.input_ids) == sum(p.positions for p in micro.samples) <= 4000
            assert isinstance(batch.waveforms, tuple)
            assert len(batch.waveforms) == CALLS
            load = micro.load(STRIDE, CALLS)
            assert load.audio_positions == len(batch.audio_index)
            assert load.padded(1)[0] <= 4000
    assert sorted(keys) == sorted(f"synthetic-{i:05d}" for i in range(40))


def test_targets_are_the_dialogue_and_audio_goes_to_its_turn(dataset: Dataset, tokenizer: PromptTokenizer) -> None:
    sample = next(p for p in planned(plan_of(dataset, tokenizer)) if p.cached and len(p.slices) > 4)
    batch = collated(dataset, tokenizer, [sample])
    loaded = reader_of(dataset, tokenizer).load(sample)
    ids = batch.target_ids.tolist()
    answers = tokenizer.tokenizer.decode(ids).split(tokenizer.tokenizer.decode([tokenizer.eos]))
    assert answers.pop() == ""
    assert all(read_reply(answer).box for answer in answers[:-1])
    lines = read_reply(answers[-1]).lines
    assert [line.text for line in lines] == [" ".join(s.text.split()) for s in loaded.sample.segments]
    # Every audio position is filled once, by slices in the order of the encoder's calls.
    index = batch.audio_index.tolist()
    assert len(set(index)) == len(index) == sum(audio_positions(n, STRIDE) for n in sample.slices)
    assert all(batch.input_ids[i] == 0 for i in index)
    rows = [
        wave[: int(n)]
        for wave, n in zip((w for call in batch.waveforms for w in call), batch.waveform_lengths, strict=True)
    ]
    whole = loaded.wave
    assert any(np.array_equal(row.numpy(), whole) for row in rows)
    # Each slice says where it begins; cached ones are of another recording time.
    starts = batch.model_inputs()["waveform_starts"].tolist()
    assert starts.count(-1) == sum(len(clip.entries) for clip in sample.cached)
    assert len(set(starts)) > 3
    for row, start in zip(rows, starts, strict=True):
        assert start < 0 or np.array_equal(row.numpy(), whole[start:][: len(row)])
    runs: list[list[int]] = []
    for i in sorted(index):
        if runs and runs[-1][-1] == i - 1:
            runs[-1].append(i)
        else:
            runs.append([i])
    assert [len(run) for run in runs] == [audio_positions(n, STRIDE) for n in sample.slices]
    # Weights follow the parts of the target.
    assert batch.target_weights is not None
    assert {round(w, 2) for w in batch.target_weights.tolist()} == {1.0, 1.5, 2.0}
    said = [
        tokenizer.tokenizer.decode([i]) for i, w in zip(ids, batch.target_weights.tolist(), strict=True) if w == 2.0
    ]
    assert "Speaker" in "".join(said)
    assert batch.parts is not None
    labels = batch.parts == list(Part).index(Part.LABEL)
    assert torch.equal(labels, batch.labels)
    assert [i for i, part in zip(ids, labels.tolist(), strict=True) if part] == [
        i for i, w in zip(ids, batch.target_weights.tolist(), strict=True) if w == 2.0
    ]
    assert batch.to("cpu").parts is not None
    assert "parts" not in batch.model_inputs()


def test_cache_entries_are_of_earlier_clips_of_the_session(dataset: Dataset, tokenizer: PromptTokenizer) -> None:
    number, found = 0, 0
    for p in planned(plan_of(dataset, tokenizer)):
        number += 1
        found += bool(p.cached)
        here = int(p.key[-5:])
        for clip in p.cached:
            there = int(clip.key[-5:])
            assert there // 4 == here // 4
            assert there < here
        seconds = [entry.length / 16000 for clip in p.cached for entry in clip.entries]
        assert sum(seconds) <= CACHE.total_seconds + 1e-3
        assert all(CACHE.min_seconds <= s <= CACHE.max_seconds + 1e-3 for s in seconds)
        speakers = [entry.speaker for clip in p.cached for entry in clip.entries]
        assert max((speakers.count(s) for s in speakers), default=0) <= CACHE.per_speaker
    assert 0 < found < number


def test_excluded_clips_give_no_entries(dataset: Dataset, tokenizer: PromptTokenizer, tmp_path: Path) -> None:
    (tmp_path / "list").write_text("".join(f"synthetic-{i:05d}\n" for i in range(0, 40, 4)))
    shares = [DatasetConfig(path=dataset.url, exclude=str(tmp_path / "list"))]
    for p in planned(plan_of(dataset, tokenizer, train=shares)):
        assert all(int(clip.key[-5:]) % 4 for clip in p.cached)


def test_a_position_is_resumed_with_the_same_samples(dataset: Dataset, tokenizer: PromptTokenizer) -> None:
    steps: list[GlobalStep] = list(plan_of(dataset, tokenizer))
    assert len(steps) > 4
    for at in (0, 2, len(steps) - 2):
        again = plan_of(dataset, tokenizer)
        again.load_state_dict(steps[at].state)
        assert [s.micro_batches for s in again] == [s.micro_batches for s in steps[at + 1 :]]


def test_settings_of_dialogues_are_compared_on_resume(dataset: Dataset, tokenizer: PromptTokenizer) -> None:
    state = next(iter(plan_of(dataset, tokenizer))).state
    for changes in ({"encoder_calls": 2}, {"dialogue": replace(DIALOGUE, tau=0.5)}):
        with pytest.raises(PlanError, match=next(iter(changes))):
            plan_of(dataset, tokenizer, **changes).load_state_dict(state)
    with pytest.raises(PlanError, match="tasks of the stage"):
        plan_of(dataset, tokenizer, 12).load_state_dict(state)


def test_an_empty_micro_batch_makes_as_many_calls(tokenizer: PromptTokenizer) -> None:
    batch = empty_batch(tokenizer, STRIDE, 16, CALLS)
    assert len(batch.waveforms) == CALLS
    assert batch.unused_audio == (CALLS - 1) * len(batch.audio_index)
    alone = empty_batch(tokenizer, STRIDE, 16)
    assert alone.unused_audio == 0
    assert alone.waveforms.shape == (1, 8000)  # type: ignore[union-attr]


def test_a_task_without_a_share_is_never_drawn(dataset: Dataset, tokenizer: PromptTokenizer) -> None:
    tasks = replace(DIALOGUE.tasks, count=0.0)
    drawn = {p.mode for p in planned(plan_of(dataset, tokenizer, 11, dialogue=replace(DIALOGUE, tasks=tasks)))}
    assert drawn == {Task.SINGLE, Task.GENDERS}
