"""Checks and repairs of segments."""

import math
from itertools import pairwise

from hypothesis import given, settings
from hypothesis import strategies as st

from shards.manifests.audit import Audit
from shards.manifests.segment_cleaning import clean_segments
from shards.manifests.text_policy import TextPolicy
from shards.sample import Segment


def clean(*rows: tuple[str, float, float, str], duration: float = 10.0, words: bool = True):
    audit = Audit()
    made = clean_segments([Segment(*r) for r in rows], duration, TextPolicy("raw"), audit, "m", words=words)
    result = audit.result()
    return [(s.speaker, s.start, s.end, s.text) for s in made], result["skipped"], result["changed"]


def test_invalid_times() -> None:
    kept, skipped, changed = clean(
        ("a", 5, 4, "reversed"),
        ("a", 3, 3, "empty"),
        ("a", math.nan, 4, "nan"),
        ("a", 1, math.inf, "inf"),
        ("a", -3, -1, "before"),
        ("a", 10.5, 11, "after"),
        ("a", -0.5, 1, "early"),
        ("a", 9, 12, "late"),
        ("a", 2, 3, "right"),
    )
    assert kept == [("a", 0.0, 1, "early"), ("a", 2, 3, "right"), ("a", 9, 10.0, "late")]
    assert skipped == {
        "segment with reversed or empty times": 2,
        "segment with a non-finite time": 2,
        "segment outside the recording": 2,
    }
    assert changed == {"segment starts before 0: trimmed": 1, "segment ends after the recording: trimmed": 1}


def test_rounded_ends_are_trimmed_without_an_audit_entry() -> None:
    kept, skipped, changed = clean(("a", 8, 10.004, "x"))
    assert (kept, skipped, changed) == ([("a", 8, 10.0, "x")], {}, {})


def test_segments_without_words_are_counted() -> None:
    audit = Audit()
    segments = [Segment("a", 0, 1, ""), Segment("a", 1, 2, " \ufeff"), Segment("a", 2, 3, "<sil>")]
    assert clean_segments(segments, 9, TextPolicy("plain"), audit, "m") == ()
    assert audit.result()["skipped"] == {"segment without words": 3}
    kept, *_ = clean(("a", 0, 1, ""), words=False)
    assert len(kept) == 1  # turns without words, as RTTM has them


def test_self_overlap_is_trimmed_or_merged_without_losing_words() -> None:
    kept, skipped, changed = clean(
        ("a", 0, 2.0, "一"),
        ("a", 1.8, 3.0, "二"),  # a little: parted
        ("a", 4, 8, "three"),
        ("a", 5, 6, "four"),  # inside: joined
        ("a", 7, 9, "five"),  # much: joined to both
        ("b", 4, 8, "other"),
        ("b", 4, 8, "other"),  # twice
    )
    assert kept == [("a", 0, 1.8, "一"), ("a", 1.8, 3.0, "二"), ("a", 4, 9, "three four five"), ("b", 4, 8, "other")]
    assert skipped == {"duplicate segment": 1}
    assert changed == {
        "short same-speaker overlap: trimmed": 1,
        "same-speaker overlap: merged": 2,
    }


rows = st.tuples(st.sampled_from("ab"), st.integers(-20, 130), st.integers(-30, 60))


@settings(max_examples=300, deadline=None)
@given(drawn=st.lists(rows, max_size=25))
def test_cleaning_keeps_all_words_and_removes_self_overlap(drawn: list[tuple[str, int, int]]) -> None:
    """For random times: each segment with valid times keeps its word, once, inside the recording."""
    given_rows = [(s, a / 10, (a + n) / 10, f"w{i}") for i, (s, a, n) in enumerate(drawn)]
    kept, skipped, _ = clean(*given_rows)
    usable = [r for r in given_rows if r[2] > r[1] and r[2] > 0 and r[1] < 10.0]
    assert sorted(" ".join(k[3] for k in kept).split()) == sorted(r[3] for r in usable)
    assert sum(skipped.values()) == len(given_rows) - len(usable)
    assert all(0 <= start < end <= 10.0 for _, start, end, _ in kept)
    assert [k[1] for k in kept] == sorted(k[1] for k in kept)
    for speaker in "ab":
        own = [k for k in kept if k[0] == speaker]
        assert all(one[2] <= other[1] for one, other in pairwise(own))
