"""Resuming a plan: what may change on the way, and what is refused."""

from __future__ import annotations

import itertools
from collections import Counter

import pytest

from pipeline.recipe.schema import AugmentConfig, DatasetConfig, PhaseConfig, RegistrationConfig
from shards.errors import PlanError
from tests.support.planning import FakeBank, make_data, make_plan, make_source, samples_of


def boundary_state(data: object) -> tuple[dict, dict]:
    """States within and between epochs of a plan over ``one`` and ``two``."""
    plan = make_plan(make_source(40, name="one"), make_source(200, name="two"), data=data, epochs=None)
    steps = list(itertools.islice(plan, 40))
    inside = next(s.state for s in steps if s.state["streams"][0]["position"] and s.state["streams"][0]["epoch"])
    between = next(s.state for s in steps if s.state["streams"][0]["epoch"] and not s.state["streams"][0]["position"]
                   and not s.state["streams"][0]["window"])  # fmt: skip
    return inside, between


def test_a_changed_dataset_is_accepted_between_two_epochs_only_and_only_on_demand() -> None:
    data = make_data(align_epochs=True)
    inside, between = boundary_state(data)

    def changed() -> object:
        one = make_source(70, name="one", seed=9)
        one.fingerprint = "packed again"
        return make_plan(one, make_source(200, name="two"), data=data, epochs=None)

    for state in (inside, between):
        with pytest.raises(PlanError, match=r"one: its shards changed.*--accept-dataset-change"):
            changed().load_state_dict(state)
    with pytest.raises(PlanError, match=r"its shards changed \(made → packed again\).*within epoch 2 of one"):
        changed().load_state_dict(inside, accept_dataset_change=True)
    plan = changed()
    plan.load_state_dict(between, accept_dataset_change=True)
    planned = samples_of(list(itertools.islice(plan, 60)))
    epoch = between["streams"][0]["epoch"]
    assert Counter(p.key for p in planned if p.dataset == 0 and p.epoch == epoch) == {
        f"one-{i:04d}": 1 for i in range(70)
    }
    rest = [p.key for p in planned if p.dataset == 1 and p.epoch == between["streams"][1]["epoch"]]
    old = make_plan(make_source(40, name="one"), make_source(200, name="two"), data=data, epochs=None)
    old.load_state_dict(between)
    assert rest == [
        p.key
        for p in samples_of(list(itertools.islice(old, 60)))
        if p.dataset == 1 and p.epoch == between["streams"][1]["epoch"]
    ]


def test_datasets_may_come_at_any_time_and_go_between_epochs() -> None:
    data = make_data(align_epochs=True)
    inside, between = boundary_state(data)
    three = [make_source(200, name="two"), make_source(40, name="one"), make_source(30, name="three")]
    plan = make_plan(*three, data=data, epochs=None)
    plan.load_state_dict(inside, accept_dataset_change=True)
    assert [s["epoch"] for s in plan.state_dict()["streams"]] == [inside["streams"][1]["epoch"], 1, 0]
    assert {p.dataset for p in samples_of(list(itertools.islice(plan, 20)))} == {0, 1, 2}
    with pytest.raises(PlanError, match=r"dataset one was removed"):
        make_plan(three[0], data=data, epochs=None).load_state_dict(inside, accept_dataset_change=True)
    make_plan(three[0], data=data, epochs=None).load_state_dict(between, accept_dataset_change=True)


def test_a_changed_recipe_is_refused_even_where_datasets_may_change() -> None:
    state = next(iter(make_plan(make_source(40)))).state
    with pytest.raises(PlanError, match=r"seed was 1, is 2; data\.max_positions was 900, is 901"):
        make_plan(make_source(40), data=make_data(max_positions=901), seed=2).load_state_dict(state, True)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"seed": 2}, "seed was 1, is 2"),
        ({"data": {"max_positions": 901}}, "data.max_positions was 900, is 901"),
        ({"data": {"micro_batches_per_step": 8}}, "micro_batches_per_step"),
        ({"data": {"registration": RegistrationConfig(max_distractors=4)}}, "data.registration"),
        ({"data": {"augment": AugmentConfig(speeds=[0.9, 1.0])}}, r"data.augment was .*'speeds': \[1.0\]"),
        ({"data": {"curriculum": [PhaseConfig(5)]}}, r"data.curriculum was \[\], is"),
        ({"registration": False}, "registration of the stage"),
        ({"share": {"epochs": 3}}, "epochs changed"),
        ({"fingerprint": "repacked"}, "made: its shards changed"),
        ({"bank": FakeBank(["made:S0"])}, "made: its speaker bank changed"),
        ({"share": {"weight": 2.0}}, "weight"),
        ({"share": {"hours": 0.01}}, "hours"),
    ],
)
def test_a_state_of_another_plan_is_refused_with_what_changed(change: dict, says: str) -> None:
    state = next(iter(make_plan(make_source(40)))).state
    source = make_source(40)
    source.fingerprint, source.bank = change.get("fingerprint", source.fingerprint), change.get("bank", source.bank)
    plan = make_plan(
        source,
        shares=[DatasetConfig(path="made", **change.get("share", {}))],
        data=make_data(**change.get("data", {})),
        seed=change.get("seed", 1),
        registration=change.get("registration", True),
    )
    with pytest.raises(PlanError, match=says):
        plan.load_state_dict(state)


def test_a_state_from_before_a_setting_existed_has_its_default() -> None:
    state = next(iter(make_plan(make_source(40)))).state
    del state["recipe"]["model.encoder.frame_multiple"]
    plan = make_plan(make_source(40))
    plan.load_state_dict(state)
    assert plan.step == 1


def test_settings_of_speed_alone_may_change_on_resume() -> None:
    state = next(iter(make_plan(make_source(40)))).state
    plan = make_plan(make_source(40), data=make_data(workers=7, prefetch_steps=9))
    plan.load_state_dict(state)
    assert plan.step == 1
