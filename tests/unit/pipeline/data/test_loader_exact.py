"""What the plan is for: any ranks, workers and interruptions give the same tensors in the same steps, once an epoch."""

from __future__ import annotations

import itertools
import json
from collections import Counter

import numpy as np
import pytest
import soundfile
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipeline.data.augment import Augmenter
from pipeline.data.loader import Loader, SampleReader
from pipeline.prompts import PromptTokenizer
from pipeline.recipe.schema import AugmentConfig, RegistrationConfig
from tests.support.datasets import make_dataset
from tests.support.planning import make_data, packed_plan
from tests.support.tiny import TEXTS, make_tokenizer

pytestmark = [pytest.mark.timeout(240), pytest.mark.filterwarnings("ignore:This DataLoader will create")]
SAMPLES = 40


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    return PromptTokenizer.from_folder(make_tokenizer(tmp_path_factory.mktemp("tokenizer"), TEXTS))


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return make_dataset(tmp_path_factory.mktemp("data"), samples=SAMPLES, seconds=(0.4, 2.0))


@pytest.fixture(scope="module")
def augment(tmp_path_factory):
    """Everything that augmentation can do, at once."""
    folder = tmp_path_factory.mktemp("noise")
    soundfile.write(folder / "n.flac", 0.1 * np.random.default_rng(0).standard_normal(48_000), 16_000)
    return AugmentConfig(speeds=[0.9, 1.0, 1.1], noise=str(folder), frame_masks=2, mel_masks=1)


def loader(dataset, tokenizer, data, state=None, epochs=None, **how) -> Loader:
    plan = packed_plan([dataset], tokenizer, data=data, epochs=epochs)
    if state is not None:
        plan.load_state_dict(json.loads(json.dumps(state)))
    return Loader(plan, SampleReader([dataset], tokenizer, 2, 192, Augmenter(data.augment)), **how)


def everything(batch) -> tuple:
    """A batch as comparable bytes."""
    return tuple(
        (name, v.numpy().tobytes(), tuple(v.shape)) if isinstance(v, torch.Tensor) else (name, v)
        for name, v in sorted(vars(batch).items())
    )


def steps_of(ranks: int, workers: int, count: int, *args, **settings) -> tuple[list[list[tuple]], dict]:
    """The next global steps, put together from their ranks' parts, and the state after them."""
    shares = []
    for rank in range(ranks):
        made = loader(*args, **settings, rank=rank, world_size=ranks, workers=workers)
        shares.append(list(itertools.islice(made, count)))
    states = {json.dumps(steps[-1].state, sort_keys=True) for steps in shares}
    assert len(states) == 1
    size = args[2].micro_batches_per_step
    whole = []
    for parts in zip(*shares, strict=True):
        assert len({len(p.micro_batches) for p in parts}) == 1  # every rank makes the same calls
        dealt = [b for turn in zip(*(p.micro_batches for p in parts), strict=True) for b in turn]
        assert all(b.weight == 0 for b in dealt[size:])
        whole.append([everything(b) for b in dealt[:size]])
    return whole, json.loads(states.pop())


shapes = st.fixed_dictionaries(
    {
        "micro_batches_per_step": st.integers(1, 8),
        "max_positions": st.integers(500, 2000),
        "max_frames": st.integers(60, 600),
        "window_shards": st.integers(1, 6),
    }
)


@settings(deadline=None, max_examples=12, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(shape=shapes, draw=st.data(), workers=st.integers(0, 2))
def test_every_sample_is_loaded_once_an_epoch_on_any_ranks_and_workers(dataset, tokenizer, shape, draw, workers):
    data = make_data(**shape)
    ranks = draw.draw(st.integers(1, data.micro_batches_per_step))
    seen = Counter()
    for rank in range(ranks):
        made = loader(dataset, tokenizer, data, epochs=1, rank=rank, world_size=ranks, workers=workers)
        seen.update(key for step in made for batch in step.micro_batches for key in batch.keys)
    assert seen == {f"synthetic-{i:05d}": 1 for i in range(SAMPLES)}


def test_ranks_1_2_3_4_8_with_0_to_4_workers_see_the_same_steps(dataset, tokenizer, augment):
    data = make_data(micro_batches_per_step=8, max_positions=700, max_frames=200, augment=augment)
    alone, state = steps_of(1, 0, 3, dataset, tokenizer, data)
    for ranks, workers in [(1, 1), (1, 4), (2, 0), (2, 3), (3, 0), (3, 2), (4, 1), (8, 0), (8, 1)]:
        steps, after = steps_of(ranks, workers, 3, dataset, tokenizer, data)
        assert after == state
        assert steps == alone, f"{ranks} ranks, {workers} workers"


def test_restoring_after_every_step_of_two_epochs_equals_the_uninterrupted_run_byte_for_byte(
    dataset, tokenizer, augment
):
    registration = RegistrationConfig(max_distractors=5, name_pools=["zh", "en"])
    data = make_data(
        micro_batches_per_step=3, max_positions=650, max_frames=90, augment=augment, registration=registration
    )
    whole = list(loader(dataset, tokenizer, data, epochs=2))
    assert len(whole) > 8
    assert whole[0].micro_batches[0].frame_masks.shape[1] == 2
    for stop in range(len(whole) - 1):
        rest = loader(dataset, tokenizer, data, whole[stop].state, epochs=2)
        for expected, got in zip(whole[stop + 1 : stop + 4], rest, strict=False):
            assert (got.step, got.state) == (expected.step, expected.state)
            assert list(map(everything, got.micro_batches)) == list(map(everything, expected.micro_batches))


def test_two_ranks_then_three_then_one_in_the_middle_of_an_epoch(dataset, tokenizer, augment):
    data = make_data(micro_batches_per_step=3, augment=augment)
    alone, _ = steps_of(1, 0, 9, dataset, tokenizer, data)
    state, seen = None, []
    for ranks, workers in ((2, 1), (3, 0), (1, 2)):
        steps, state = steps_of(ranks, workers, 3, dataset, tokenizer, data, state=state)
        seen += steps
    assert seen == alone


def test_augmentation_differs_between_epochs_and_not_between_runs(dataset, tokenizer, augment):
    data = make_data(augment=augment)
    first, again = (
        [(b.keys, everything(b)) for s in loader(dataset, tokenizer, data, epochs=2) for b in s.micro_batches]
        for _ in range(2)
    )
    assert first == again
    plan = packed_plan([dataset], tokenizer, data=data, epochs=2)
    planned = [p for s in plan for b in s.micro_batches if b for p in b.samples]
    speeds = {e: {p.key: p.speed for p in planned if p.epoch == e} for e in (0, 1)}
    assert speeds[0] != speeds[1]
    assert len({p.seed for p in planned}) == 2 * SAMPLES


def test_an_augmenter_that_is_off_changes_no_byte(dataset, tokenizer):
    data = make_data()
    plain = Loader(packed_plan([dataset], tokenizer, data=data), SampleReader([dataset], tokenizer, 2, 192))
    for a, b in zip(plain, loader(dataset, tokenizer, data, epochs=1), strict=True):
        assert list(map(everything, a.micro_batches)) == list(map(everything, b.micro_batches))
