"""A tiny SpeakerLM on synthetic data, through the code that trains the large one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmarks.support.tiny import make_base
from benchmarks.support.training import DIM, make_parts, sharpen, tiny_recipe
from pipeline.prompts import Mode
from pipeline.ranks.launch import Ranks
from pipeline.recipe.schema import Recipe
from pipeline.train.stage_data import StageData
from shards.weights.hashes import sha256_of

__all__ = ["DIM", "FixedModes", "finished_run", "make_base", "make_parts", "sharpen", "tiny_recipe"]


def finished_run(parts: Path, **model_settings: Any) -> Path:
    """``PARTS/run``: a run of stage 4 that has finished without learning anything; with other settings of the model."""
    from pipeline.checkpoint.final_weights import write_done
    from pipeline.model.build import build_model
    from pipeline.model.own_weights import WEIGHTS, own_state_dict, save_own_weights
    from pipeline.recipe.load import save_recipe

    run = parts / "run"
    recipe = tiny_recipe(parts, run)
    recipe.model = replace(recipe.model, **model_settings)
    recipe.init_from = "stage3"  # a recipe of stage 4 needs one; decoding does not read it
    model = build_model(recipe.model)
    save_own_weights(run / WEIGHTS, own_state_dict(model), model.bases)
    save_recipe(recipe, run / "config.yaml")
    write_done(run, {"stage": 4, "step": 0, "weights_sha256": sha256_of(run / WEIGHTS), "bases": model.bases})
    return run


class FixedModes(StageData):
    """Every sample once in each of these modes, in order of the plan; with so many distractors."""

    def __init__(
        self, recipe: Recipe, ranks: Ranks, tokenizer: Any, modes: Sequence[Mode], n_ov: int | None = None
    ) -> None:
        self._modes, self._n_ov = tuple(modes), n_ov
        super().__init__(recipe, ranks, tokenizer)

    def plan_settings(self) -> Any:
        return replace(super().plan_settings(), modes=self._modes, n_ov=self._n_ov)
