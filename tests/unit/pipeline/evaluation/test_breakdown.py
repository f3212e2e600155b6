"""Figures by properties of the recordings."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.evaluation.breakdown import DURATIONS, OVERLAPS, Measured, breakdown, facts_of, overlap_ratio
from pipeline.evaluation.normalize import profile
from pipeline.evaluation.records import SegLstRow, SessionTranscript
from pipeline.evaluation.scores import RowLabel, make_row
from pipeline.evaluation.session_scores import score_session, total

NONE = profile("none")


def session(name: str, turns: list[tuple[str, str, float, float]], heard: str, group: str = "") -> SessionTranscript:
    reference = tuple(SegLstRow(name, who, text, a, b) for who, text, a, b in turns)
    return SessionTranscript(name, reference, (SegLstRow(name, "x", heard),), group)


def measured(sessions: list[SessionTranscript], about: list[dict[str, object]], mode: str = "no") -> Measured:
    scores = tuple(score_session(s, NONE) for s in sessions)
    row = make_row(scores, RowLabel("run", None, "toy", "test", mode), NONE, 0)
    return Measured(row, scores, tuple(facts_of(s, a) for s, a in zip(sessions, about, strict=True)))


@settings(deadline=None)
@given(st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 30), st.integers(1, 12)), min_size=1, max_size=8))
def test_overlap_is_that_of_a_count_on_a_grid(turns: list[tuple[str, int, int]]) -> None:
    talks = session("s", [(who, "x", float(a), float(a + n)) for who, a, n in turns], "x")
    grid = np.zeros((3, 50), bool)
    for who, a, n in turns:
        grid["abc".index(who), a : a + n] = True
    active = grid.sum(axis=0)
    assert overlap_ratio(talks) == pytest.approx((active > 1).sum() / (active > 0).sum())


def test_one_person_does_not_overlap_with_themselves() -> None:
    assert overlap_ratio(session("s", [("a", "x", 0, 2), ("a", "y", 1, 3)], "x")) == 0
    assert overlap_ratio(SessionTranscript("s", (), ())) is None


def test_facts_come_from_the_row_and_else_from_the_reference() -> None:
    talk = session("s", [("a", "x", 0, 2), ("b", "y", 1, 3)], "x", "meeting")
    assert facts_of(talk, {"duration": 7.5, "language": "zh", "corpus": "toy"}).seconds == 7.5
    found = facts_of(talk)
    assert (found.speakers, found.seconds, found.language, found.corpus, found.session) == (2, 3, None, None, "meeting")
    untimed = SessionTranscript("s", (SegLstRow("s", "a", "x"), SegLstRow("s", "b", "y", 0, 1)), ())
    assert (facts_of(untimed).overlap, facts_of(untimed).seconds) == (None, None)


def test_every_property_splits_the_figures_and_parts_sum_to_the_whole() -> None:
    sessions = [
        session("s0", [("a", "一二", 0, 2), ("b", "三四", 2, 4)], "一二三四", "m0"),
        session("s1", [("a", "一二", 0, 2), ("b", "三四", 1, 3)], "一二", "m0"),
        session("s2", [("a", "一二", 0, 50), ("b", "三", 40, 90), ("c", "四", 80, 100)], "九", "m1"),
    ]
    about = [{"language": "zh", "corpus": "A"}, {"language": "zh", "corpus": "B"}, {"language": "mul", "corpus": "B"}]
    one = measured(sessions, about)
    table = breakdown([one])
    assert table is not None
    rows = [dict(zip(table.head, line, strict=True)) for line in table.lines]
    found = {by: [r["value"] for r in rows if r["by"] == by] for by in dict.fromkeys(r["by"] for r in rows)}
    assert found == {
        "overlap": ["none", "10–20 %", "20–40 %"],
        "speakers": ["2", "3"],
        "duration": ["up to 5 s", "1–5 min"],
        "language": ["mul", "zh"],
        "corpus": ["A", "B"],
        "session": ["m0", "m1"],
    }
    whole = total(one.scores).cer
    for by in found:
        of = [r for r in rows if r["by"] == by]
        assert sum(r["ref. tokens"] for r in of) == whole.reference
        assert sum(r["CER"] * r["ref. tokens"] for r in of) / 100 == pytest.approx(whole.errors)
    assert json.loads(table.json())[0]["system"] == "run"


def test_a_property_of_one_value_and_sessions_of_one_clip_are_omitted() -> None:
    sessions = [session(f"s{i}", [("a", "一", 0, 2)], "一", f"m{i}") for i in range(3)]
    assert breakdown([measured(sessions, [{}] * 3)]) is None


def test_bins_cover_every_value_in_order() -> None:
    for bins in (OVERLAPS, DURATIONS):
        ends = [end for end, _ in bins]
        assert ends == sorted(ends)
    assert OVERLAPS[-1][0] == 1.0
    assert DURATIONS[-1][0] == float("inf")
