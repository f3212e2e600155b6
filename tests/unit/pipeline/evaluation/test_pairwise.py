"""Every two rows compared: numbers, which pairs there are, and that p means what it says."""

from __future__ import annotations

import random

from pipeline.evaluation.bootstrap import compare
from pipeline.evaluation.breakdown import Facts, Measured
from pipeline.evaluation.edit_distance import Edits
from pipeline.evaluation.pairwise import HEAD, distinct_labels, pairs
from pipeline.evaluation.session_scores import SessionScore

NOTHING = Facts(None, None, None)


def row(errors: list[int], run: str = "a", mode: str = "no", test_set: str = "toy", tokens: int = 100) -> Measured:
    scores = tuple(
        SessionScore(f"s{i}", f"g{i}", Edits(0, 0, e, tokens), None if mode == "asr" else Edits(0, 0, e + 1, tokens))
        for i, e in enumerate(errors)
    )
    made = {"run": run, "stage": None, "test_set": test_set, "mode": mode, "n_ov": None, "normaliser": "none-v1"}
    return Measured(made, scores, (NOTHING,) * len(errors))


def lines(measured: list[Measured]) -> list[dict[str, object]]:
    table = pairs(measured, 500)
    return [dict(zip(HEAD, line, strict=True)) for line in table.lines] if table else []


def test_a_pair_has_the_figures_of_the_comparison() -> None:
    rng = random.Random(1)
    a, b = ([rng.randint(0, 20) for _ in range(12)] for _ in range(2))
    first, second = row(a, "a"), row(b, "b")
    found = lines([first, second])
    assert [x["rate"] for x in found] == ["CER", "cpCER"]
    single = compare(first.scores, second.scores, "cer", 500)
    assert (found[0]["B − A"], found[0]["low"], found[0]["high"]) == (single.difference, single.low, single.high)
    assert (found[0]["p, bootstrap"], found[0]["p, permutation"]) == (single.p_bootstrap, single.p)
    assert found[0]["A, %"] == sum(a) / 12
    assert (found[0]["A"], found[0]["B"]) == ("a, No-Regist", "b, No-Regist")


def test_only_rows_of_the_same_sessions_references_and_set_are_compared() -> None:
    errors = list(range(12))
    assert lines([row(errors), row(errors, "b", test_set="other")]) == []
    assert lines([row(errors), row(errors[:-1], "b")]) == []
    assert lines([row(errors), row(errors, "b", tokens=99)]) == []
    assert lines([row([3]), row([4], "b")]) == []  # one recording
    assert [x["rate"] for x in lines([row(errors), row(errors, "b", mode="asr")])] == ["CER"]
    assert len(lines([row(errors, name) for name in "abcd"])) == 6 * 2


def test_rows_of_one_label_are_numbered() -> None:
    assert distinct_labels([row([1, 2]), row([2, 3]), row([1, 2], "b")]) == [
        "a, No-Regist", "a, No-Regist (2)", "b, No-Regist",
    ]  # fmt: skip


def test_p_of_the_bootstrap_is_small_for_a_difference_and_rarely_so_without_one() -> None:
    rng = random.Random(2)
    worse = lines([row([5] * 30), row([5 + rng.randint(1, 9) for _ in range(30)], "b")])[0]
    assert worse["p, bootstrap"] < 0.01
    same = lines([row([5] * 30), row([5] * 30, "b")])[0]
    assert same["p, bootstrap"] == 1
    small = 0
    for _ in range(200):  # two systems that are equally good
        a, b = ([rng.randint(0, 20) for _ in range(30)] for _ in range(2))
        small += lines([row(a), row(b, "b")])[0]["p, bootstrap"] < 0.05
    assert small <= 24
