"""A tiny SpeakerLM on synthetic data, through the code that trains the large one."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmarks.support.datasets import make_dataset
from benchmarks.support.tiny import TinyBase, make_base, model_config
from pipeline.recipe.schema import DataConfig, DatasetConfig, OptimizerConfig, Recipe, RegistrationConfig, TrainerConfig
from pipeline.recipe.shipped import CHECKOUT

DIM = 16  # of speaker vectors


def make_parts(folder: Path | str, heads: int = 4) -> None:
    """Base models and packed data that tests of one module share. ZeRO-3 costs time per layer, so there are few."""
    folder = Path(folder)
    sharpen(make_base(folder / "base", layers=1, heads=heads).llm)
    make_dataset(folder / "data", samples=24, speakers_per_sample=(1, 3), dim=DIM, seed=3)
    make_dataset(folder / "few", samples=2, speakers_per_sample=(2, 2), dim=DIM, seed=5)
    make_dataset(folder / "crowd", samples=1, speakers_per_sample=(20, 20), seconds=(4.0, 5.0), dim=DIM, seed=4)


def sharpen(llm: Path, factor: float = 20.0) -> None:
    """Scale the random output layer, so that a frozen one can say anything with certainty."""
    from safetensors.torch import load_file, save_file

    path = llm / "model.safetensors"
    weights = load_file(path)
    weights["lm_head.weight"] *= factor
    save_file(weights, path, metadata={"format": "pt"})


def tiny_recipe(parts: Path, output: Path, stage: int = 4, dropout: float = 0.0, **trainer: Any) -> Recipe:
    """A recipe over these parts; M = 3, so that two ranks get unequal shares."""
    base = TinyBase(parts / "base" / "encoder", parts / "base" / "llm")
    model = model_config(base, speaker_dim=DIM, dropout=dropout)
    return Recipe(
        name="tiny-test",
        stage=stage,
        output=str(output),
        init_from=None,
        deepspeed=str(CHECKOUT / "tests" / "support" / "zero3_gathers.json"),
        model=replace(model, projector=replace(model.projector, layers=1)),
        data=DataConfig(
            train=[DatasetConfig(path=str(parts / "data"))],
            validation=[DatasetConfig(path=str(parts / "data"))],
            registration=RegistrationConfig(max_distractors=5),
            micro_batches_per_step=3,
            max_positions=500,
            max_frames=400,
            workers=0,
        ),
        optimizer=OptimizerConfig(start_lr=1e-4, peak_lr=1e-3, final_lr=1e-4, warmup_steps=2),
        trainer=TrainerConfig(**{"max_steps": 3, "validation_batches": 3, "timeout_seconds": 60.0, **trainer}),
    )
