"""Contradictions in recipes."""

from pathlib import Path

import pytest

from pipeline.recipe.load import load_recipe
from shards.errors import ConfigError

MINIMAL = """
name: x
stage: 1
output: out
model: {extractor: campplus, llm: {checkpoint: llm}}
data: {train: [{path: data}]}
trainer: {max_steps: 100}
optimizer: {warmup_steps: 10}
"""


@pytest.fixture
def recipe_file(tmp_path: Path) -> Path:
    path = tmp_path / "recipe.yaml"
    path.write_text(MINIMAL)
    return path


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("data.train=[]", ["data.train"]),
        ("stage=7", ["stage is 7"]),
        ("stage=2", ["init_from"]),
        ("data.registration.max_distractors=500", ["1..100"]),
        ("data.registration.mode_shares=[0, 0, 0]", ["mode_shares", "at least one must be above 0"]),
        ("data.registration.mode_shares=[1, -1, 1]", ["mode_shares", "below 0"]),
        ("data.context.share=1.5", ["data.context.share is 1.5", "0 to 1"]),
        ("data.context={max_terms: 0, max_distractors: 0}", ["data.context", "one of them must be above"]),
        ("data.context={max_terms: -1}", ["data.context", "below 0"]),
        ("optimizer.warmup_steps=100", ["warmup_steps", "max_steps"]),
        ("optimizer.lr_factors={llm: 0.1}", ["optimizer.lr_factors.llm", "audio_projector"]),
        ("optimizer.lr_factors={encoder: 0}", ["optimizer.lr_factors.encoder", "above 0"]),
        ("data.train=[{path: a, weight: 0}]", ["weight"]),
        ("trainer.validate_every=0", ["trainer.validate_every is 0, must be at least 1"]),
        ("trainer.validation_batches=0", ["trainer.validation_batches is 0, must be at least 1"]),
        ("seed=-1", ["seed is -1, must be a number that is not below 0"]),
        ("trainer.save_every=0", ["trainer.save_every"]),
        ("trainer.log_every=0", ["trainer.log_every"]),
        ("trainer.max_bad_steps=0", ["trainer.max_bad_steps"]),
        ("data.window_shards=0", ["data.window_shards"]),
        ("data.workers=-1", ["data.workers is -1", "not below 0"]),
        ("data.max_positions=0", ["data.max_positions"]),
        ("model.projector.stride=0", ["model.projector.stride"]),
        ("model.lora.r=0", ["model.lora.r"]),
        ("model.activation_checkpointing.llm_every=-1", ["model.activation_checkpointing.llm_every is -1"]),
        ("optimizer.peak_lr=.nan", ["optimizer.peak_lr is nan", "above 0"]),
        ("optimizer.clip=-1", ["optimizer.clip"]),
        ("optimizer.betas=[0.9]", ["optimizer.betas", "two numbers"]),
    ],
)
def test_contradicting_settings_are_refused(recipe_file: Path, override: str, words: list[str]) -> None:
    with pytest.raises(ConfigError) as e:
        load_recipe(recipe_file, [override])
    assert all(w in str(e.value) for w in words), str(e.value)
    assert "\n" not in str(e.value)
