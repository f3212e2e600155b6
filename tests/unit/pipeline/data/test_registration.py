"""Names, keyed draws, and distractors from a real speaker bank."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from pipeline.data.index_rows import IndexRow
from pipeline.data.keyed_random import keyed_rng, keyed_seed, keyed_uniform
from pipeline.data.registration import BankVector, draw_mode, draw_registration
from pipeline.data.speaker_names import POOLS, corpus_names, pool_names
from pipeline.evaluation.parse import parse
from pipeline.prompts import Mode
from pipeline.recipe.schema import ModeShares, RegistrationConfig
from shards.errors import PlanError
from tests.support.datasets import make_dataset
from tests.support.planning import FakeBank

ROW = IndexRow("k", 0, 0, "session", 16_000, ("c:A", "c:B"), (1, 2), 9, 9)


def test_keys_differ_by_every_part():
    assert keyed_seed("a", "bc") != keyed_seed("ab", "c")
    assert keyed_seed(1, 2) != keyed_seed(12)
    assert keyed_uniform(1, "x") == keyed_uniform(1, "x")
    assert keyed_rng(1, "x").integers(1 << 60) == keyed_rng(1, "x").integers(1 << 60)


def test_draws_do_not_touch_the_global_generator():
    np.random.seed(3)
    before = np.random.get_state()[1].tolist()
    draw_registration(ROW, Mode.OVER, RegistrationConfig(), FakeBank(["c:A", "c:C", "c:D"]), 0, (1, "k"))
    assert np.random.get_state()[1].tolist() == before


@pytest.mark.parametrize(("pool", "least"), [("en", 200), ("zh", 200), ("tiny", 30)])
def test_a_pool_holds_enough_names_that_a_target_can_carry(pool, least):
    assert len(set(POOLS[pool])) == len(POOLS[pool]) >= least
    for name in POOLS[pool]:
        for registered in ((), (name,)):
            assert [(t.speaker, t.text) for t in parse(f"{name}: hi", registered).turns] == [(name, "hi")]


def test_names_of_a_sample_are_distinct_and_from_all_pools():
    names = pool_names(keyed_rng(1), ["zh", "en"], 100)
    assert len(set(names)) == 100
    assert 20 < sum(n in POOLS["zh"] for n in names) < 80


def test_an_unknown_or_too_small_pool_is_an_error():
    with pytest.raises(PlanError, match="no pool 'xx'; there are en, zh"):
        pool_names(keyed_rng(1), ["en", "xx"], 3)
    with pytest.raises(PlanError, match="hold 292"):
        pool_names(keyed_rng(1), ["en"], 293)


def test_corpus_names_are_short_where_that_is_unambiguous():
    assert corpus_names(["a:S1", "a:S2", "b:S1"]) == ["a_S1", "S2", "b_S1"]


def test_corpus_names_are_used_when_asked_for():
    drawn = draw_registration(ROW, Mode.MATCH, RegistrationConfig(names="corpus"), None, 0, (1, "k"))
    assert drawn.target_names == {"c:A": "A", "c:B": "B"}
    assert set(drawn.names) == {"A", "B"}


def test_a_clip_without_speech_registers_no_speaker():
    silent = replace(ROW, speakers=(), turns=())
    assert draw_registration(silent, Mode.MATCH, RegistrationConfig(), None, 0, (1, "k")).mode is Mode.NO


def test_a_fixed_number_of_distractors_is_kept_and_banned_rows_are_not_drawn():
    bank = FakeBank([f"c:S{i}" for i in range(40)])
    for i in range(50):
        drawn = draw_registration(ROW, Mode.OVER, RegistrationConfig(), bank, 0, (1, i), n_ov=30, banned={3, 4})
        rows = {s.row for s in drawn.sources if isinstance(s, BankVector)}
        assert len(rows) == 30
        assert not rows & {3, 4}


def test_the_number_of_distractors_is_uniform():
    bank = FakeBank([f"c:S{i}" for i in range(100)])
    draws = Counter(
        len(draw_registration(ROW, Mode.OVER, RegistrationConfig(50), bank, 0, (1, i)).names) - 2 for i in range(5000)
    )
    assert set(draws) == set(range(1, 51))
    chi_square = sum((n - 100) ** 2 / 100 for n in draws.values())
    assert chi_square < 90  # 49 degrees of freedom: p < 0.0003


def test_distractors_of_a_real_bank_are_of_other_sessions(tmp_path):
    dataset = make_dataset(tmp_path, samples=24, speakers_per_sample=(1, 2), samples_per_shard=24)
    bank = dataset.speakers
    for i, entry in enumerate(dataset.index(0).to_pylist()):
        row = IndexRow(entry["key"], 0, i, entry["session"], entry["num_samples"], tuple(entry["speakers"]), (), 0, 0)
        drawn = draw_registration(row, Mode.OVER, RegistrationConfig(), bank, 0, (1, i))
        extra = [s.row for s in drawn.sources if isinstance(s, BankVector)]
        assert not {bank.ids[r] for r in extra} & set(row.speakers)
        assert not any(row.session in bank.sessions[r] for r in extra)


def test_modes_follow_the_key_alone():
    shares = RegistrationConfig().mode_shares
    first, again = ([draw_mode(shares, 1, 0, "d", f"k{i}") for i in range(50)] for _ in range(2))
    assert first == again
    assert set(first) == {Mode.MATCH, Mode.NO, Mode.OVER}


def test_modes_are_drawn_in_the_shares_of_the_recipe():
    """0.0 leaves a mode out; the others keep their proportion. 4,000 draws: 3 standard deviations are 87."""
    drawn = Counter(draw_mode(ModeShares(1.0, 3.0, 0.0), 1, 0, "d", f"k{i}") for i in range(4000))
    assert drawn[Mode.OVER] == 0
    assert abs(drawn[Mode.NO] - 3000) < 87
    thirds = Counter(draw_mode(RegistrationConfig().mode_shares, 1, 0, "d", f"k{i}") for i in range(3000))
    assert all(abs(thirds[mode] - 1000) < 78 for mode in (Mode.MATCH, Mode.NO, Mode.OVER))
