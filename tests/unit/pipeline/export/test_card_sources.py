"""What a card says of the weights that a run began with."""

import json
from pathlib import Path

import pytest

from pipeline.export.card_sources import base_models, checkpoint_of, start_of
from pipeline.recipe.schema import EncoderConfig, LlmConfig, ModelConfig, Recipe


def recipe_of(run: Path, start: str | None, llm: str = "Qwen/Qwen2.5-7B-Instruct@main") -> Recipe:
    encoder = EncoderConfig(checkpoint="iic/SenseVoiceSmall")
    return Recipe("mine", 4, str(run), model=ModelConfig(llm=LlmConfig(llm), encoder=encoder), init_from=start)


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A finished run that took its weights from another place than a run."""
    run = tmp_path / "mine"
    (run / "start").mkdir(parents=True)
    (run / "done").write_text(json.dumps({"bases": {"llm": "ab" * 32, "init_from": "cd" * 32}}))
    return run


@pytest.mark.parametrize("name", ["people/meetings@v2", "hf:people/meetings@v2"])
def test_a_model_on_a_hub_is_named_with_its_revision(run: Path, name: str) -> None:
    recipe = recipe_of(run, name)
    assert start_of(recipe, run) == "the published model `people/meetings@v2`"
    assert base_models(recipe, run) == ["people/meetings", "Qwen/Qwen2.5-7B-Instruct", "iic/SenseVoiceSmall"]


def test_folders_are_named_without_their_place(run: Path, tmp_path: Path) -> None:
    recipe = recipe_of(run, str(tmp_path / "exported"), llm=str(tmp_path / "qwen"))
    assert start_of(recipe, run) == f"the exported model or adapter `exported` (a folder, sha256 {'cd' * 6}…)"
    assert checkpoint_of(recipe, run, "llm") == f"`qwen` (a folder, sha256 {'ab' * 6}…)"
    assert base_models(recipe, run) == ["iic/SenseVoiceSmall"]


def test_a_run_that_is_gone_is_no_model_on_a_hub(tmp_path: Path) -> None:
    recipe = recipe_of(tmp_path, "exp/stage3")
    assert start_of(recipe, tmp_path) == "the run `stage3` (a folder)"
    assert base_models(recipe, tmp_path) == ["Qwen/Qwen2.5-7B-Instruct", "iic/SenseVoiceSmall"]


def test_a_run_from_the_two_checkpoints_has_no_start(tmp_path: Path) -> None:
    recipe = recipe_of(tmp_path, None)
    assert start_of(recipe, tmp_path) is None
    assert checkpoint_of(recipe, tmp_path, "encoder") == "`iic/SenseVoiceSmall`"
    recipe.model.encoder.checkpoint = None
    assert checkpoint_of(recipe, tmp_path, "encoder") == "none, it is new"
