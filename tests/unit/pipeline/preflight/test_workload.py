from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.data.lengths import missing_lengths
from pipeline.model.build import load_tokenizer
from pipeline.preflight.workload import Typical, work_from_plan, work_from_sizes
from pipeline.recipe.load import load_recipe
from pipeline.recipe.shipped import CHECKOUT
from shards.dataset.dataset import open_dataset
from shards.errors import PlanError
from tests.support.training import make_parts, tiny_recipe

STAGE4 = CHECKOUT / "launch" / "recipes" / "speakerlm-7b" / "stage4.yaml"


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("parts")
    make_parts(folder)
    return folder


def test_from_the_plan(parts: Path, tmp_path: Path) -> None:
    recipe = tiny_recipe(parts, tmp_path)
    tokenizer = load_tokenizer(recipe.model)
    dataset = open_dataset(parts / "data")
    work = work_from_plan(recipe, tokenizer, 5)
    assert len(missing_lengths(dataset, tokenizer.hash)) == len(dataset.shards)  # the dataset was left as it was
    assert len(work.loads) == 5 * work.micro_batches
    assert work.positions_per_step == sum(load.positions for load in work.loads) / 5
    assert 0.5 < work.fill <= 1
    assert 0 <= work.padding < 0.5
    assert work.hours == pytest.approx(dataset.hours)
    assert max(load.positions for load in work.loads) == max(load.positions for load in work.largest)
    assert max(load.padded_squares for load in work.loads) == max(load.padded_squares for load in work.largest)
    assert [sum(p.positions for p in b.samples) for b in work.planned] == [load.positions for load in work.largest]


def test_the_plan_needs_no_noise_folder(parts: Path, tmp_path: Path) -> None:
    recipe = tiny_recipe(parts, tmp_path)
    tokenizer = load_tokenizer(recipe.model)
    quiet = work_from_plan(recipe, tokenizer, 2)
    recipe.data.augment.noise = "/nowhere"
    assert work_from_plan(recipe, tokenizer, 2) == quiet
    assert recipe.data.augment.noise == "/nowhere"


def test_from_sizes_alone() -> None:
    recipe = load_recipe(STAGE4)
    work = work_from_sizes(recipe, Typical(6000))
    (load,) = work.loads
    assert load.positions == 6000
    assert load.frames == (750,) * 7
    assert work.audio_seconds_per_step == 4 * 7 * 45
    assert work_from_sizes(recipe, Typical(6000, registered=0)).audio_seconds_per_step > work.audio_seconds_per_step
    recipe.data.max_frames = 2 * 768  # 750 frames in a row of a multiple of 64
    assert len(work_from_sizes(recipe, Typical(6000)).loads[0].frames) == 2


def test_a_clip_over_the_budget() -> None:
    with pytest.raises(PlanError, match="100 s takes"):
        work_from_sizes(load_recipe(STAGE4), Typical(1000, clip_seconds=100))


def test_dialogues_from_sizes_alone() -> None:
    recipe = load_recipe(STAGE4.parents[1] / "speaker-reasoner" / "stage12.yaml")
    work = work_from_sizes(recipe, Typical(6000))
    (load,) = work.loads
    assert load.positions == 6000
    assert load.calls == recipe.data.encoder_calls
    assert len(load.frames) % 12 == 0  # the whole clip and its eleven observations
    assert load.targets > 2 * 225 * len(load.frames) // 12
    assert load.padded_frames < 1.15 * sum(load.frames)
    assert "11 observations each" in work.source
    single = load_recipe(STAGE4.parents[1] / "speaker-reasoner" / "stage11.yaml")
    assert len(work_from_sizes(single, Typical(6000)).loads[0].frames) > len(load.frames) // 12


def test_dialogues_from_the_plan(parts: Path, tmp_path: Path) -> None:
    recipe = tiny_recipe(parts, tmp_path)
    recipe.stage, recipe.data.encoder_calls, recipe.data.max_positions = 12, 4, 2000
    tokenizer = load_tokenizer(recipe.model)
    work = work_from_plan(recipe, tokenizer, 3)
    assert len(work.loads) == 3 * work.micro_batches
    assert any(len(load.frames) > len(load.samples) for load in work.loads)  # slices beside whole clips
    assert {load.calls for load in work.loads} == {4}
    assert 0 <= work.padding < 0.5


def test_a_line_of_context_is_counted(parts: Path, tmp_path: Path) -> None:
    """From the plan by its own terms, without a dataset by the mean of what may be drawn."""
    recipe = tiny_recipe(parts, tmp_path)
    tokenizer = load_tokenizer(recipe.model)
    without = work_from_plan(recipe, tokenizer, 3)
    recipe.data.context.share, recipe.data.context.max_distractors = 1.0, 2
    named = work_from_plan(recipe, tokenizer, 3)
    samples = [s for b in named.planned for s in b.samples]
    assert any(s.context for s in samples)
    assert named.positions_per_step / named.audio_seconds_per_step > (
        without.positions_per_step / without.audio_seconds_per_step
    )
    recipe = load_recipe(STAGE4, [f"root={tmp_path}"])
    bare = work_from_sizes(recipe, Typical(6000)).loads[0].samples[0]
    recipe.data.context.share = 0.5
    assert work_from_sizes(recipe, Typical(6000)).loads[0].samples[0] == bare + 0.5 * 12 * Typical(1).tokens_per_term
