"""Load the corrector of a finished run of stage 0."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from pipeline.checkpoint.final_weights import read_done
from pipeline.model.build import load_tokenizer
from pipeline.model.corrector import build_corrector
from pipeline.model.own_weights import load_own_weights
from pipeline.recipe.load import load_recipe
from pipeline.stages import CORRECTION
from shards.errors import ModelError


def load_corrector(run: Path, dtype: torch.dtype = torch.float32) -> tuple[Any, Any, str]:
    """A finished run's LLM with its LoRA, in eval mode; its tokenizer; and a name that tells it from any other.

    Raises:
        CheckpointError: the run has not finished.
        ModelError: it is of a stage that trains SpeakerLM, or its LLM has changed.
    """
    done, recipe = read_done(run), load_recipe(run / "config.yaml")
    if recipe.stage != CORRECTION.number:
        raise ModelError(f"{run} is stage {recipe.stage} of SpeakerLM, which takes audio; stage 0 trains a corrector")
    model: Any = build_corrector(recipe.model, dtype=dtype, seed=recipe.seed)
    load_own_weights(model, run)
    name = f"{recipe.name} {done['weights_sha256'][:8]}"
    tokenizer = load_tokenizer(recipe.model)
    model.llm.generation_config.eos_token_id = tokenizer.eos  # what the answers end with that it has learnt
    return model.eval().llm, tokenizer.tokenizer, name
