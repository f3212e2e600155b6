"""The reference of settings is fresh and complete, and its schema accepts what the loader accepts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from pipeline.recipe.load import load_recipe
from pipeline.recipe.reference import PAGE, SCHEMA, json_schema, page, settings
from pipeline.recipe.shipped import CHECKOUT, FOR_EDITORS, RECIPES
from shards.errors import ConfigError

ROOT = Path(__file__).resolve().parents[4]
TINY = ROOT / "launch" / "recipes" / "tiny" / "stage4.yaml"


def test_page_and_schema_are_fresh() -> None:
    """If this fails: python -m pipeline.recipe.reference."""
    assert (ROOT / PAGE).read_text(encoding="utf-8") == page()
    assert json.loads((ROOT / SCHEMA).read_text(encoding="utf-8")) == json_schema()


def test_every_setting_has_a_meaning() -> None:
    import dataclasses

    bare = [s.name for s in settings() if not s.meaning and not dataclasses.is_dataclass(s.kind)]
    lists = {"data.train", "data.validation", "data.curriculum"}  # their entries' class says it
    assert set(bare) <= lists
    assert len(list(settings())) > 120


def problems(value: Any, schema: dict[str, Any], where: str = "") -> list[str]:
    """What a validator of the part of JSON Schema that we use would say."""
    if "anyOf" in schema:
        found = [problems(value, s, where) for s in schema["anyOf"]]
        return [] if [] in found else found[0]
    kinds = {
        "object": dict,
        "array": list,
        "string": str,
        "boolean": bool,
        "null": type(None),
        "integer": int,
        "number": (int, float),
    }
    kind = schema.get("type")
    if kind is None:
        return []
    if not isinstance(value, kinds[kind]) or (isinstance(value, bool) and kind != "boolean"):
        return [f"{where}: {value!r} is no {kind}"]
    if "pattern" in schema and "${" not in value:
        return [f"{where}: {value!r}"]
    found = []
    if kind == "object":
        known, others = schema.get("properties", {}), schema.get("additionalProperties")
        for key, inner in value.items():
            if key in known:
                found += problems(inner, known[key], f"{where}.{key}")
            elif others is False:
                found.append(f"{where}: unknown key {key}")
    if kind == "array":
        found = [p for i, inner in enumerate(value) for p in problems(inner, schema["items"], f"{where}.{i}")]
    return found


@pytest.mark.parametrize("recipe", sorted(RECIPES.glob("*/*.yaml")), ids=lambda p: p.parent.name)
def test_the_schema_accepts_every_shipped_recipe(recipe: Path) -> None:
    assert problems(yaml.safe_load(recipe.read_text()), json_schema()) == []


@pytest.mark.parametrize("recipe", sorted(RECIPES.glob("*/*.yaml")), ids=lambda p: f"{p.parent.name}-{p.stem}")
def test_editors_find_the_schema_of_every_shipped_recipe(recipe: Path) -> None:
    mark, _, path = recipe.read_text(encoding="utf-8").partition("\n")[0].partition("$schema=")
    assert mark == f"{FOR_EDITORS} "
    assert (recipe.parent / path).resolve() == CHECKOUT / SCHEMA


def test_the_schema_refuses_what_the_loader_refuses() -> None:
    for bad in ({"trainer": {"max_stepz": 3}}, {"trainer": 3}, {"seed": "one"}, {"data": {"train": {"path": "x"}}}):
        assert problems(bad, json_schema())


def test_one_entry_of_a_list_is_overridden() -> None:
    recipe = load_recipe(TINY, ["data.train.0.weight=2.5", "data.train.1.path=${root}/other", "root=x"])
    assert [(d.weight, d.path) for d in recipe.data.train] == [(2.5, "x/data/harder"), (1.0, "x/other")]


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("data.train.5.weight=2", "data.train is a list with entries 0 to 1"),
        ("data.train.x=2", "write data.train.0.key=value"),
        ("data.curriculum.0.from_step=2", "data.curriculum is a list with no entry"),
        ("trainer=3", "trainer is a group of settings; set one of them, trainer.KEY=value"),
        ("data.train.0.weigth=1", "unknown key"),
    ],
)
def test_overrides_of_lists_and_groups_are_explained(override: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as e:
        load_recipe(TINY, [override])
    assert "DictConfig" not in str(e.value)
    assert "\n" not in str(e.value)
