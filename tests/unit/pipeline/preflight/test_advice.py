"""The choice among ZeRO stages and checkpointings, and how it becomes settings of a recipe."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from pipeline.preflight.advice import (
    CHECKPOINTINGS,
    Choice,
    apply,
    as_arguments,
    checkpointings,
    fastest,
    lines,
    own_choice,
)
from pipeline.recipe.deepspeed import resolve_deepspeed, zero_stage
from pipeline.recipe.load import load_recipe
from pipeline.recipe.schema import Recipe
from pipeline.recipe.shipped import CHECKOUT
from pipeline.stages import Checkpointing
from shards.errors import ConfigError

STAGE4 = CHECKOUT / "launch" / "recipes" / "speakerlm-7b" / "stage4.yaml"


@pytest.fixture
def recipe() -> Recipe:
    return load_recipe(STAGE4)


def rows(seconds: dict[tuple[int, str], float], too_large: tuple[tuple[int, str], ...] = ()) -> list[Choice]:
    """All choices at 10 s, but for these."""
    return [
        Choice(zero, name, 20.0, (zero, name) not in too_large, seconds.get((zero, name), 10.0), "computing", 0.3)
        for zero in (3, 2)
        for name in CHECKPOINTINGS
    ]


def test_the_fastest_that_fits_is_named_with_its_gain(recipe: Recipe) -> None:
    choices = rows({(2, "encoder alone"): 4.0, (2, "none"): 2.0, (3, "none"): 8.0}, too_large=((2, "none"),))
    own = own_choice(choices, recipe)
    assert (own.zero, own.checkpointing) == (3, "all")
    best = fastest(choices, own)
    assert best is not None
    assert (best.zero, best.checkpointing) == (2, "encoder alone")
    said = "\n".join(lines(choices, own, best, recipe))
    assert "ZeRO-2 with checkpointing of encoder alone is 2.50 times as fast" in said
    assert "ZeRO-3 at its fastest (none) takes 2.00 times as long" in said
    assert "DOES NOT FIT" in said


def test_a_choice_that_is_not_faster_changes_nothing(recipe: Recipe) -> None:
    """The recipe's own first, then ZeRO-3."""
    choices = rows({(2, "none"): 9.9})
    own = own_choice(choices, recipe)
    assert fastest(choices, own) == own
    assert "is the fastest that fits" in lines(choices, own, own, recipe)[-1]
    choices = rows({(z, "none"): 5.0 for z in (2, 3)})
    best = fastest(choices, own_choice(choices, recipe))
    assert best is not None
    assert best.zero == 3


def test_where_nothing_fits_nothing_is_named(recipe: Recipe) -> None:
    choices = [replace(c, fits=False) for c in rows({})]
    own = own_choice(choices, recipe)
    assert fastest(choices, own) is None
    assert "none fits: lower data.max_positions" in lines(choices, own, None, recipe)[-1]


def test_a_recipe_with_other_checkpointing_has_a_row(recipe: Recipe) -> None:
    recipe.model.activation_checkpointing = Checkpointing(encoder=False, llm_every=3)
    assert list(checkpointings(recipe)) == [*CHECKPOINTINGS, "as in the recipe"]
    assert list(checkpointings(load_recipe(STAGE4))) == list(CHECKPOINTINGS)


def test_a_choice_becomes_overrides_and_a_recipe(recipe: Recipe, tmp_path: Path) -> None:
    choice = Choice(2, "encoder, every 2nd layer", 45.0, True, 1.0, "computing", 0.3)
    settings = choice.overrides(recipe)
    arguments = as_arguments(settings)
    apply(tmp_path / "fast.yaml", STAGE4, settings, "the fastest")
    for made in (load_recipe(STAGE4, arguments), load_recipe(tmp_path / "fast.yaml")):
        assert zero_stage(resolve_deepspeed(made, 4)) == 2
        assert made.model.activation_checkpointing == Checkpointing(encoder=True, llm_every=2)
        assert made.data == recipe.data
    with pytest.raises(ConfigError, match=r"fast\.yaml exists"):
        apply(tmp_path / "fast.yaml", STAGE4, settings, "again")
    own = Choice(3, "all", 10.0, True, 1.0, "computing", 0.3).overrides(recipe)
    assert own["deepspeed"] == recipe.deepspeed
