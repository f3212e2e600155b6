"""Recipes of Speaker-Reasoner: they load, and settings that dialogues cannot have are refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.recipe.load import load_recipe
from pipeline.stages import STAGES
from shards.errors import ConfigError

RECIPES = Path(__file__).resolve().parents[4] / "launch" / "recipes"


@pytest.mark.parametrize("stage", [11, 12, 13])
@pytest.mark.parametrize("folder", ["speaker-reasoner", "speaker-reasoner-tiny"])
def test_shipped_recipes_load(folder: str, stage: int) -> None:
    recipe = load_recipe(RECIPES / folder / f"stage{stage}.yaml", [])
    assert recipe.stage == stage
    assert STAGES[stage].tasks
    assert recipe.data.encoder_calls > 1
    tiny_start = folder.endswith("tiny") and stage == 11  # from stage 4, too short to learn what conversations are
    assert recipe.init_from_any == tiny_start
    assert recipe.init_from
    assert recipe.init_from.endswith("models/run" if tiny_start else f"stage{STAGES[stage].starts_from}")


@pytest.mark.parametrize(
    ("override", "problem"),
    [
        ("data.augment.speeds=[0.9,1.0]", "its speed must be 1"),
        ("data.augment.frame_masks=2", "frame_masks and mel_masks must be 0"),
        ("data.dialogue.tau=0", "data.dialogue.tau"),
        ("data.dialogue.max_turns=0", "data.dialogue.max_turns"),
        ("data.dialogue.tasks.reason=0", "at least one must be above 0"),
        ("data.dialogue.cache.share=1.5", "data.dialogue.cache.share"),
        ("data.dialogue.cache.min_seconds=20", "min_seconds <= max_seconds"),
        ("data.dialogue.time_weight=-1", "must not be below 0"),
        ("data.encoder_calls=0", "data.encoder_calls"),
        ("data.context.share=0.5", "data.context is for stages 1 to 4"),
        ("data.speaker_questions=2", "no speaker probes"),
        ("trainer.best_by=sacer", "no name is registered in dialogues"),
    ],
)
def test_settings_that_dialogues_cannot_have(override: str, problem: str) -> None:
    with pytest.raises(ConfigError, match=problem):
        load_recipe(RECIPES / "speaker-reasoner" / "stage13.yaml", [override])


def test_a_checkpoint_is_kept_by_a_rate_that_the_stage_has() -> None:
    recipe = load_recipe(RECIPES / "speaker-reasoner" / "stage13.yaml", ["trainer.best_by=der"])
    assert (recipe.trainer.best_by, recipe.trainer.decode_clips) == ("der", 16)
    with pytest.raises(ConfigError, match=r"only dialogues .* have times"):
        load_recipe(RECIPES / "speakerlm-7b" / "stage3.yaml", ["trainer.best_by=der"])


@pytest.mark.parametrize(
    ("stage", "override", "problem"),
    [
        (13, "model.base=qwen2-audio", "model.base is 'qwen2-audio', must be one of speakerlm"),
        (13, "model.llm.liger=true", "liger and float8 are not for"),
        (2, "", "is for stages .*11, 12, 13.* not 2"),
    ],
)
def test_settings_that_another_base_cannot_have(stage: int, override: str, problem: str) -> None:
    folder = "speaker-reasoner" if stage > 10 else "speakerlm-7b"
    overrides = ["model.base=qwen3-omni", *filter(None, [override])]
    with pytest.raises(ConfigError, match=problem):
        load_recipe(RECIPES / folder / f"stage{stage}.yaml", overrides)
