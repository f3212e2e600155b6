"""Numbers of packed datasets for the model card."""

from pathlib import Path

import pytest

from pipeline.export import model_card
from pipeline.export.training_data import data_facts
from pipeline.recipe.load import save_recipe
from pipeline.recipe.schema import DataConfig, DatasetConfig, LlmConfig, ModelConfig, Recipe
from shards.dataset.dataset import DATASET, dataset_json
from tests.support.datasets import make_dataset


def test_a_dataset_without_shards_has_no_numbers(tmp_path: Path) -> None:
    (tmp_path / DATASET).write_bytes(dataset_json("empty", [], {}))
    assert data_facts(str(tmp_path)) is None
    assert data_facts(str(tmp_path / "missing")) is None
    assert data_facts("s3://bucket/data") is None


def test_a_card_reads_each_dataset_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_dataset(tmp_path / "data", samples=3)
    read: list[str] = []
    monkeypatch.setattr(model_card, "data_facts", lambda path: (read.append(path), data_facts(path))[1])
    data = DataConfig(train=[DatasetConfig(path=str(tmp_path / name)) for name in ("data", "elsewhere")])
    (tmp_path / "one").mkdir()
    model = ModelConfig(llm=LlmConfig("llm"), extractor="campplus")
    save_recipe(Recipe("one", 1, str(tmp_path / "one"), model=model, data=data), tmp_path / "one" / "config.yaml")
    recipe = Recipe("two", 2, str(tmp_path / "two"), model=model, data=data, init_from=str(tmp_path / "one"))
    card = model_card.model_card(tmp_path / "two", recipe, "two", merged=True, scores=None)
    assert "| data | 1, 2 | synthetic |" in card
    assert "| elsewhere | 1, 2 | not in reach" in card
    assert sorted(read) == [str(tmp_path / "data"), str(tmp_path / "elsewhere")]
