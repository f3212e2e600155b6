"""Sessions that do not fit together, and turns that overlap."""

import pytest

from pipeline.evaluation.edit_distance import Edits
from pipeline.evaluation.normalize import profile
from pipeline.evaluation.pairing import pair, self_overlaps
from pipeline.evaluation.records import SegLstRow
from pipeline.evaluation.session_scores import score_session, total
from shards.errors import ScoreError

REF = [SegLstRow("a", "A", "一二"), SegLstRow("b", "A", "三")]


def score(paired):
    return total(score_session(s, profile("none")) for s in paired.sessions)


def test_a_session_without_hypothesis_is_all_deletions_and_listed():
    paired = pair(REF, [SegLstRow("a", "x", "一二")])
    assert paired.missing == ("b",)
    assert "1 of 2 sessions have no hypothesis and count as deleted: b" in paired.findings
    assert score(paired).cer == Edits(deletions=1, reference=3)


def test_session_without_reference_is_skipped_and_listed():
    paired = pair(REF, [*REF, SegLstRow("c", "A", "四")])
    assert paired.extra == ("c",)
    assert "1 hypothesis sessions have no reference and are skipped: c" in paired.findings
    assert score(paired).cer == Edits(reference=3)


def test_a_hypothesis_for_another_set_is_refused():
    with pytest.raises(ScoreError, match="another set"):
        pair(REF, [SegLstRow("z", "A", "一二")])


def test_an_empty_hypothesis_is_all_deletions_and_an_empty_reference_is_refused():
    paired = pair(REF, [])
    assert paired.findings == ("the hypothesis holds no segment: everything counts as deleted",)
    assert score(paired).cer == Edits(deletions=3, reference=3)
    with pytest.raises(ScoreError, match="reference holds no segment"):
        pair([], REF)


def test_overlapping_turns_of_one_name_are_counted_and_scored_in_order_of_start():
    ref = [
        SegLstRow("a", "A", "三四", 1.0, 3.0),
        SegLstRow("a", "A", "一二", 0.0, 2.0),
        SegLstRow("a", "B", "五", 0.5, 3.0),
    ]
    assert self_overlaps(ref) == 1
    paired = pair(ref, [SegLstRow("a", "x", "一二三四"), SegLstRow("a", "y", "五")])
    assert any("reference: 1 turns begin before" in f for f in paired.findings)
    assert score(paired).cpcer == Edits(reference=5)


def test_turns_without_a_speaker_are_listed():
    paired = pair(REF, [SegLstRow("a", None, "一"), SegLstRow("a", "x", "二"), SegLstRow("b", "x", "三")])
    assert paired.findings == ("hypothesis: 1 turns have no speaker and are insertions in cpCER and saCER",)


def test_sessions_are_in_the_order_of_the_reference_with_their_recording():
    paired = pair(REF, list(reversed(REF)), group=lambda s: "meeting", names={"a": ["A", "B"]})
    assert [s.id for s in paired.sessions] == ["a", "b"]
    assert {s.unit_group for s in paired.sessions} == {"meeting"}
    assert [s.names for s in paired.sessions] == [("A", "B"), None]
