"""Intervals by recording, and paired comparison."""

import random

import pytest

from pipeline.evaluation.bootstrap import compare, few_recordings, intervals, paired_difference
from pipeline.evaluation.edit_distance import Edits
from pipeline.evaluation.session_scores import SessionScore
from shards.errors import ScoreError


def scores(errors, per_group=1, reference=100):
    return [
        SessionScore(f"s{i}", f"g{i // per_group}", Edits(0, 0, e, reference), Edits(0, 0, e + 5, reference))
        for i, e in enumerate(errors)
    ]


def test_equal_sessions_have_an_interval_of_zero_width():
    found = intervals(scores([10] * 20))
    assert found["cer"] == [10, 10]
    assert found["cpcer"] == [15, 15]
    assert found["delta_cp"] == [5, 5]
    assert "sacer" not in found


def test_the_interval_covers_the_rate_and_is_reproducible():
    rng = random.Random(0)
    made = scores([rng.randint(0, 40) for _ in range(50)])
    low, high = intervals(made)["cer"]
    rate = sum(s.cer.errors for s in made) / 50
    assert low < rate < high
    assert high - low < 10
    assert intervals(made)["cer"] == [low, high]
    assert intervals(made, seed=2)["cer"] != [low, high]


def test_interval_has_its_nominal_coverage():
    """Recordings with a true rate of 20 %: of 200 sets, about 95 % of the intervals hold it."""
    rng = random.Random(1)
    held = 0
    for _ in range(200):
        errors = [sum(rng.random() < p for _ in range(100)) for p in (rng.choice((0.1, 0.3)) for _ in range(30))]
        low, high = intervals(scores(errors), replicates=300)["cer"]
        held += low <= 20 <= high
    assert 175 <= held <= 200


def test_clips_of_a_recording_are_drawn_together():
    """Ten clips each of two recordings, all wrong or all right: single clips would give a narrow interval."""
    errors = [0] * 10 + [100] * 10
    assert intervals(scores(errors, per_group=10))["cer"] == [0, 100]
    low, high = intervals(scores(errors))["cer"]
    assert 20 < low < high < 80


def test_all_clips_of_a_recording_count():
    """Each recording has a clip that is all wrong and one that is right: every draw is half wrong."""
    assert intervals(scores([100, 0] * 10, per_group=2))["cer"] == [50, 50]


def test_one_recording_has_no_interval():
    assert intervals(scores([1, 2, 3], per_group=3)) is None


def test_recordings_without_reference_make_no_nan():
    made = [SessionScore("a", "a", Edits(1, 0, 0, 0)), SessionScore("b", "b", Edits(0, 0, 1, 10))]
    low, high = intervals(made)["cer"]
    assert low >= 10
    assert high <= 200


def test_a_better_system_is_found_better_and_an_equal_one_not():
    rng = random.Random(2)
    base = [rng.randint(20, 40) for _ in range(60)]
    better = compare(scores(base), scores([e - 2 for e in base]))
    assert (better.difference, better.low, better.high) == pytest.approx((-2, -2, -2))
    assert better.p == pytest.approx(2 / 2**60)
    assert better.exact
    same = compare(scores(base), scores([e + rng.choice((-3, 3)) for e in base]))
    assert same.low < 0 < same.high
    assert same.p > 0.05
    assert compare(scores(base), scores(base)).p == 1


def test_p_is_that_of_sign_flips_over_recordings():
    """Four recordings that all become better cannot be less likely than 2 of 16 patterns."""
    found = compare(scores([10, 20, 30, 40]), scores([7, 15, 21, 30]))
    assert (found.p, found.exact) == (0.125, True)
    assert compare(scores([7, 15, 21, 30]), scores([10, 20, 30, 40])).p == found.p
    assert compare(scores([10, 10]), scores([7, 11])).p == 1  # -3 and 1: every pattern of signs is as far from zero
    clips = compare(scores([10] * 40, per_group=10), scores([9] * 40, per_group=10))
    assert (clips.p, clips.groups) == (0.125, 4)


def test_few_recordings_are_warned_of():
    assert few_recordings(4) == "only 4 recordings: intervals over so few are too narrow, and no p can be below 0.125"
    assert few_recordings(1) is few_recordings(10) is None


@pytest.mark.parametrize(
    ("a", "b", "figure", "message"),
    [
        (scores([1, 2]), scores([1, 2, 3]), "cer", "same sessions"),
        (scores([1, 2]), scores([1, 2], reference=99), "cer", "same sessions"),
        (scores([1]), scores([1]), "cer", "two recordings"),
        (scores([1, 2]), scores([1, 2]), "sacer", "not defined"),
    ],
)
def test_incomparable_systems_are_refused(a, b, figure, message):
    with pytest.raises(ScoreError, match=message):
        compare(a, b, figure)


def test_paired_difference_of_rates_over_any_length():
    a = [(2.0, 10.0)] * 20
    assert paired_difference(a, [(1.0, 10.0)] * 20) == (-10.0, -10.0, -10.0)
    rng = random.Random(2)
    b = [(rng.uniform(0.0, 2.0), 10.0) for _ in a]
    difference, low, high = paired_difference(a, b)
    assert low < difference < high < 0
    assert difference == pytest.approx(100 * sum(e for e, _ in b) / 200 - 20)


def test_paired_difference_needs_the_same_recordings():
    with pytest.raises(ScoreError, match="the same recordings"):
        paired_difference([(1.0, 1.0)] * 3, [(1.0, 1.0)] * 2)
    with pytest.raises(ScoreError, match="two at least"):
        paired_difference([(1.0, 1.0)], [(1.0, 1.0)])
    with pytest.raises(ScoreError, match="length above 0"):
        paired_difference([(0.0, 0.0)] * 2, [(1.0, 1.0)] * 2)
