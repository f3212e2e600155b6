"""Recipes and DeepSpeed files of the project, found by name from any folder."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.recipe.load import load_recipe, load_recipes
from pipeline.recipe.shipped import CHECKOUT, RECIPES, find_file, find_recipe, shipped_recipes
from shards.errors import ConfigError


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("name", ["tiny/stage1", "tiny/stage1.yaml", "launch/recipes/tiny/stage1.yaml"])
def test_a_recipe_is_found_by_its_name(name: str) -> None:
    assert find_recipe(name) == RECIPES / "tiny" / "stage1.yaml"
    assert load_recipe(name) == load_recipe(RECIPES / "tiny" / "stage1.yaml")


def test_stages_of_a_folder_are_found_by_its_name() -> None:
    assert [r.stage for r in load_recipes("tiny", "1-4")] == [1, 2, 3, 4]


def test_a_file_of_the_user_wins(tmp_path: Path) -> None:
    (tmp_path / "tiny").mkdir()
    (tmp_path / "tiny" / "stage1.yaml").write_text(f"extends: {RECIPES}/tiny/stage1.yaml\nname: mine\n")
    (tmp_path / "ds_configs").mkdir()
    (tmp_path / "ds_configs" / "zero2.json").write_text("{}")
    assert load_recipe("tiny/stage1.yaml").name == "mine"
    assert find_file("ds_configs/zero2.json") == Path("ds_configs/zero2.json")
    assert find_file("ds_configs/zero3.json") == CHECKOUT / "ds_configs" / "zero3.json"


def test_a_recipe_extends_one_of_the_project_by_name(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("extends: speakerlm-7b/stage4\nname: mine\n")
    found = load_recipe("mine.yaml")
    assert (found.name, found.stage, found.model.speaker_dim) == ("mine", 4, 192)


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("tiny/stagel", "no recipe at tiny/stagel; did you mean tiny/stage"),
        ("launch/recipes/tiny/stage5.yaml", "did you mean tiny/stage"),
        ("root=mine", "no recipe at root=mine; name the recipe first, then overrides"),
        ("nothing.yaml", "no recipe at nothing.yaml; speakerlm-train --list shows"),
    ],
)
def test_an_unknown_recipe_is_an_error_that_names_the_nearest(name: str, says: str) -> None:
    with pytest.raises(ConfigError) as error:
        load_recipe(name)
    assert says in str(error.value)


def test_each_recipe_has_a_line_of_its_own() -> None:
    rows = dict(shipped_recipes())
    assert rows.keys() >= {"tiny/stage1", "small/stage4", "speakerlm-7b/stage2", "correction/tiny"}
    assert all(30 < len(text) < 160 and "\n" not in text for text in rows.values()), rows
    assert not any("_common" in name for name in rows)


def test_missing_folder_of_stages_is_named_with_its_path(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no recipe at .*tinny/stage1\.yaml; did you mean tiny/stage1"):
        load_recipes(tmp_path / "tinny", "1-4")
