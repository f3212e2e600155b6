"""What a plan was made of."""

from __future__ import annotations

import pytest

from pipeline.data.plan_identity import check_same
from shards.errors import PlanError
from tests.support.planning import FakeBank, make_plan, make_source


def test_a_state_without_a_speaker_bank_fingerprint_is_accepted() -> None:
    """It was saved by an earlier version."""
    state = next(iter(make_plan(make_source(40)))).state
    del state["datasets"][0]["bank"]
    plan = make_plan(make_source(40))
    plan.load_state_dict(state)
    assert plan.step == 1


def test_the_speaker_bank_counts_where_speakers_are_registered_alone() -> None:
    other = make_source(40)
    other.bank = FakeBank(["made:S0"])
    state = next(iter(make_plan(make_source(40), registration=False))).state
    plan = make_plan(other, registration=False)
    plan.load_state_dict(state)
    assert plan.step == 1


def test_ranks_with_different_data_are_an_error() -> None:
    bank = make_source(40)
    bank.bank = FakeBank(["made:S0"])
    same, other = make_plan(make_source(40)).identity, make_plan(bank).identity
    check_same([same, same])
    with pytest.raises(PlanError, match="rank 2 sees other data than rank 0: dataset made: its speaker bank changed"):
        check_same([same, same, other])
