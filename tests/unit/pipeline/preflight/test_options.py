"""What preflight says about the options of the model, on a small recipe."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from pipeline.cards import card
from pipeline.flops import Sizes, count
from pipeline.preflight.estimate import World
from pipeline.preflight.options import Traffic, cost, like_liger, lines, options
from pipeline.preflight.shapes import empty_model
from pipeline.preflight.workload import Typical, work_from_sizes
from pipeline.recipe.deepspeed import resolve_deepspeed
from pipeline.stages import STAGES
from tests.support.training import make_parts, tiny_recipe


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("parts")
    make_parts(folder)
    return tiny_recipe(folder, folder / "run", stage=1)


def found(recipe: Any, name: str) -> dict[str, str]:
    (load,) = work_from_sizes(recipe, Typical(600, clip_seconds=4)).largest
    made = options(recipe, resolve_deepspeed(recipe, 1), load, World(1, 1, card(name), 100, 0.45), rounds=1)
    assert [o.name for o in made if o.on] == (["model.llm.float8"] if recipe.model.llm.float8 else [])
    assert len(lines(made)) == 2 + len(made)
    return {o.name: o.text for o in made}


def test_each_option_has_a_line(recipe: Any) -> None:
    said = found(recipe, "A800-80")
    assert said["model.llm.float8"] == "A800-80 has no float8"
    assert "kernels that encode the audio" in said["model.encoder.compile"]
    assert "ms a step (-" in said["model.llm.liger"]


def test_float8_is_counted_where_the_card_has_it(recipe: Any) -> None:
    off = found(recipe, "H100-80")["model.llm.float8"]
    assert "of products), +" in off
    on = replace(recipe, model=replace(recipe.model, llm=replace(recipe.model.llm, float8=True)))
    assert found(on, "H100-80")["model.llm.float8"] == off  # against the recipe without it


def test_operations_in_float8_are_the_bases_forward_ones(recipe: Any) -> None:
    (load,) = work_from_sizes(recipe, Typical(600, clip_seconds=4)).largest
    rounded = replace(recipe.model, llm=replace(recipe.model.llm, float8=True))
    plain, float8 = (Sizes.of(empty_model(m, "bfloat16")[0]) for m in (recipe.model, rounded))
    assert (plain.float8, float8.float8) == (False, True)
    assert replace(float8, float8=False) == plain
    for again in (False, True):
        a, b = (count(s, load, STAGES[1].trains, again) for s in (plain, float8))
        assert (a.hardware, a.float8) == (b.hardware, 0.0)
        assert b.float8 == 2.0 * plain.llm * load.positions * (1 + again)


def test_liger_keeps_and_moves_less(recipe: Any) -> None:
    model, _ = empty_model(recipe.model, "bfloat16")
    model.trainable(STAGES[1].trains)
    model.train()
    (load,) = work_from_sizes(recipe, Typical(600, clip_seconds=4)).largest
    cost(model, load, zero3=False)  # the frontend's constants go to the device once
    plain = cost(model, load, zero3=False)
    with like_liger(model):
        liger = cost(model, load, zero3=False)
    assert liger.activations <= plain.activations  # so small a model's filterbank needs most
    assert liger.traffic < 0.95 * plain.traffic
    assert liger.kernels < plain.kernels
    assert cost(model, load, zero3=False) == plain  # put back


def test_traffic_by_hand() -> None:
    """1,000 numbers of 4 bytes: a sum of two reads two and writes one; products and views count no bytes."""
    a, b = torch.zeros(10, 100, device="meta"), torch.zeros(10, 100, device="meta")
    with Traffic() as traffic:
        (a + b).view(-1)
        a @ b.t()
        torch.empty_like(a)
    assert (traffic.bytes, traffic.kernels) == (12_000, 2)
