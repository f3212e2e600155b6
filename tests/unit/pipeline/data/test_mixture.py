"""Shares of datasets in the mixture: weights, temperature sampling, languages."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from itertools import islice
from pathlib import Path

import pytest

from pipeline.data.plan import Plan
from pipeline.data.plan_report import report
from pipeline.recipe.load import load_recipe
from pipeline.recipe.schema import DatasetConfig
from shards.errors import ConfigError, PlanError
from tests.support.planning import make_data, make_plan, make_source

TINY = Path(__file__).resolve().parents[4] / "launch" / "recipes" / "tiny" / "stage4.yaml"


def mixture(temperature: float | None, weights: tuple[float, float] = (1.0, 1.0)) -> Plan:
    """Two datasets, one eight times as large as the other."""
    sources = make_source(400, name="large"), make_source(50, name="small", seed=1)
    shares = [DatasetConfig(path=name, weight=w) for name, w in zip(("large", "small"), weights, strict=True)]
    return make_plan(*sources, shares=shares, data=make_data(temperature=temperature), epochs=None)


def share_of_large(plan: Plan) -> float:
    drawn = Counter(b.dataset for step in islice(plan, 200) for b in step.micro_batches if b)
    return drawn[0] / drawn.total()


def test_temperature_evens_out_the_datasets() -> None:
    hours = [stream.selection.hours for stream in mixture(None).streams]
    ratio = hours[0] / hours[1]
    for temperature in (1.0, 2.0, 5.0):
        power = ratio ** (1 / temperature)
        assert share_of_large(mixture(temperature)) == pytest.approx(power / (1 + power), abs=0.01)
    assert share_of_large(mixture(None)) == pytest.approx(0.5, abs=0.01)
    assert share_of_large(mixture(1.0, (1.0, ratio))) == pytest.approx(0.5, abs=0.01)  # weights are factors on it


def test_temperature_is_compared_on_resume() -> None:
    state = next(iter(mixture(2.0))).state
    with pytest.raises(PlanError, match=r"data\.temperature was 2\.0, is 3\.0"):
        mixture(3.0).load_state_dict(state)
    with pytest.raises(PlanError, match=r"data\.temperature"):
        mixture(None).load_state_dict(state)
    mixture(2.0).load_state_dict(state)


def test_a_subset_counts_with_its_hours() -> None:
    source = make_source(100)
    plan = make_plan(source, shares=[DatasetConfig(path="made", hours=0.02)], data=make_data(temperature=1.0))
    assert plan.streams[0].selection.hours == pytest.approx(0.02)


@pytest.mark.parametrize("wrong", ["0", "0.5", "-1"])
def test_a_temperature_below_one_is_refused(wrong: str) -> None:
    with pytest.raises(ConfigError, match=r"data\.temperature"):
        load_recipe(TINY, [f"data.temperature={wrong}"])


def test_shares_of_languages_are_reported() -> None:
    source = make_source(40)
    source.shards = [
        [replace(row, language="zh" if i % 4 else "en") for i, row in enumerate(rows)] for rows in source.shards
    ]
    steps = list(make_plan(source))
    made = report(steps, make_plan(source).settings)
    rows = [row for rows in source.shards for row in rows]
    zh = sum(r.num_samples for r in rows if r.language == "zh") / sum(r.num_samples for r in rows)
    assert made.languages == pytest.approx({"zh": zh, "en": 1 - zh})
    assert f"zh {zh:.1%}, en {1 - zh:.1%}" in str(made)
