"""Which step comes next, and how long all of them take."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture
def plan(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Five steps: a long one behind the second, and a last one behind all."""
    monkeypatch.syspath_prepend(str(ROOT / "launch"))
    needs = {"a": (), "b": (), "c": (), "long": ("b",), "last": ("a", "b", "c", "long")}
    seconds = {"a": 5.0, "b": 2.0, "c": 5.0, "long": 20.0, "last": 1.0}
    return importlib.import_module("schedule").Schedule(seconds, {n: frozenset(v) for n, v in needs.items()})


def test_what_the_longest_path_begins_with_comes_first(plan: Any) -> None:
    names = list(plan.seconds)
    assert plan.ready(names, []) == "b"
    assert plan.ready(["a", "c", "long", "last"], []) == "a"  # the first in the list where nothing else decides
    assert plan.ready(["a", "c", "long", "last"], ["b"]) == "long"
    assert plan.ready(["last"], ["a", "b", "c"]) is None
    assert plan.ready(["last"], ["a", "b", "c", "long"]) == "last"


def test_time_left_is_that_of_steps_beside_one_another(plan: Any) -> None:
    names = list(plan.seconds)
    assert plan.left(names, [], {}, 2) == 2 + 20 + 1
    assert plan.left(names, [], {}, 1) == 5 + 2 + 5 + 20 + 1
    assert plan.left(["c", "last"], ["b"], {"a": 1.0, "long": 3.0}, 2) == 1 + 5 + 1
    assert plan.left([], names, {}, 2) == 0
