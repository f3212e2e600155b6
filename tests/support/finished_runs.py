"""A finished run without training: base checkpoints, weights that differ from their start, config.yaml, done."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import torch

from pipeline.checkpoint.final_weights import write_done
from pipeline.model.own_weights import WEIGHTS, own_state_dict, save_own_weights
from pipeline.recipe.load import save_recipe
from pipeline.recipe.schema import DataConfig, DatasetConfig, ModelConfig, Recipe
from pipeline.stages import module_of, stage_of


def make_finished_run(
    run: Path,
    cfg: ModelConfig,
    stage: int = 1,
    noise: float = 0.05,
    data: str = "s3://bucket/meetings-train",
    **recipe: Any,
) -> Path:
    """As if trained: noise on everything that training may change, LoRA's B included."""
    row = stage_of(stage, cfg.base)
    model = row.load(row.model)(cfg)
    generator = torch.Generator().manual_seed(11)
    for name, p in model.named_parameters():
        if module_of(name) != "llm":
            p.data.add_(torch.randn(p.shape, generator=generator) * noise)
    run.mkdir(parents=True)
    trained = DataConfig(train=[DatasetConfig(path=data, weight=2.0)])
    save_recipe(Recipe("tiny-run", stage, str(run), model=cfg, data=trained, **recipe), run / "config.yaml")
    save_own_weights(run / WEIGHTS, own_state_dict(model), model.bases)
    seal(run, stage, model.bases)
    return run


def seal(run: Path, stage: int, bases: dict[str, str]) -> None:
    """Write the ``done`` marker for the weights as they are."""
    digest = hashlib.sha256((run / WEIGHTS).read_bytes()).hexdigest()
    write_done(run, {"stage": stage, "step": 1234, "weights_sha256": digest, "bases": bases})
