"""The sign-flip test against all patterns tried one by one, and its estimate from random patterns."""

from __future__ import annotations

import itertools
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.evaluation.permutation import quick_sign_flip, sign_flip


def plain(differences: list[int]) -> float:
    """Share of all patterns of signs whose sum is at least as far from zero."""
    seen = abs(sum(differences))
    sums = [
        sum(s * d for s, d in zip(p, differences, strict=True))
        for p in itertools.product((1, -1), repeat=len(differences))
    ]
    return sum(abs(x) >= seen for x in sums) / len(sums)


@settings(deadline=None)
@given(st.lists(st.integers(-9, 9), max_size=10))
def test_exact_p_equals_all_patterns_tried_one_by_one(differences):
    p, exact = sign_flip(differences)
    assert exact
    assert p == pytest.approx(plain(differences), rel=1e-12)


def test_four_recordings_cannot_give_less_than_an_eighth():
    assert sign_flip([-100, -200, -300, -400]) == (pytest.approx(0.125), True)


def test_no_difference_is_no_evidence():
    assert sign_flip([]) == sign_flip([0, 0]) == (1.0, True)
    assert sign_flip([5, -5]) == (1.0, True)


def test_a_thousand_recordings_are_still_exact():
    p, exact = sign_flip([1] * 520 + [-1] * 480)
    assert exact
    assert p == pytest.approx(0.2175, abs=5e-4)  # two-sided binomial, by scipy.stats.binomtest(520, 1000)


@settings(deadline=None)
@given(st.lists(st.integers(-9, 9), min_size=1, max_size=8).filter(any))
def test_random_patterns_agree_with_all_of_them_and_repeat(differences):
    p, exact = sign_flip(differences, cells=0, draws=4000)
    assert not exact
    assert p == pytest.approx(plain(differences), abs=0.05)
    assert sign_flip(differences, cells=0, draws=4000)[0] == p > 0


@settings(deadline=None)
@given(st.lists(st.integers(-30, 30), min_size=2, max_size=12))
def test_the_quick_p_is_exact_for_few_errors(differences):
    assert quick_sign_flip(differences) == sign_flip(differences)


def test_the_quick_p_of_many_recordings_is_close_to_the_exact_one_and_reproducible():
    rng = random.Random(3)
    for shift in (0, 1, 2, 4):
        differences = [rng.randint(-30, 30) + shift for _ in range(600)]
        p, exact = quick_sign_flip(differences)
        assert not exact
        assert p == pytest.approx(sign_flip(differences)[0], abs=0.02)
        assert quick_sign_flip(differences) == (p, exact)
    assert quick_sign_flip([30] * 600)[0] == pytest.approx(1e-4, rel=0.01)  # never 0


def test_the_quick_p_counts_sums_that_a_float32_does_not_hold():
    p, exact = quick_sign_flip([2**24 + 1] * 3)
    assert not exact
    assert p == pytest.approx(0.25, abs=0.03)
