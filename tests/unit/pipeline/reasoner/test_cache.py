"""The speaker-aware cache: ranking, bounds, numbers of speakers over chunks."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.dialogue.lines import Line
from pipeline.reasoner.cache import CacheRules, SpeakerCache
from shards.errors import ConfigError

AUDIO = np.arange(20 * 16000, dtype=np.float32)


def line(number: int, start: float, end: float, gender: str | None = None, text: str = "words") -> Line:
    return Line(number, gender, round(start * 100), round(end * 100), text)


def test_a_label_of_a_later_chunk_is_the_same_person() -> None:
    cache = SpeakerCache()
    assert cache.update(AUDIO, [line(1, 0, 3, "male"), line(2, 4, 9, "female")], []) == [1, 2]
    known, order = cache.shown()
    assert [k.label for k in known] == ["Female 1", "Male 2"]  # the longer one ranks first: she is number 1 now
    assert order == [2, 1]
    # In the next chunk the model calls her 1 and him 2, and meets a third person.
    assert cache.update(AUDIO, [line(2, 0, 2), line(1, 3, 5), line(3, 6, 8)], order) == [1, 2, 3]


def test_entries_are_cut_from_the_audio_and_ranked_by_duration_times_recency() -> None:
    cache = SpeakerCache(CacheRules(alpha=1.0, per_speaker=1, min_seconds=1, max_seconds=10, total_seconds=10))
    cache.update(AUDIO, [line(1, 2, 6)], [])  # 4 s: φ = 4 · (1 + 1/1), later 4 · (1 + 1/2)
    known, order = cache.shown()
    assert np.array_equal(known[0].audio, AUDIO[2 * 16000 : 6 * 16000])
    cache.update(AUDIO, [line(1, 0, 3.5, text="new")], order)  # 3.5 s: φ = 3.5 · 2 = 7 > 6
    assert [k.text for k in cache.shown()[0]] == ["new"]
    cache.update(AUDIO, [line(1, 0, 1)], [1])  # 1 s: φ = 2 < 3.5 · (1 + 2/3)
    assert [k.text for k in cache.shown()[0]] == ["new"]


def test_overlapped_short_and_wordless_lines_are_no_entries() -> None:
    cache = SpeakerCache()
    cache.update(AUDIO, [line(1, 0, 3), line(2, 2, 5), line(3, 6, 6.5), line(4, 7, 9, text="")], [])
    assert cache.shown() == ([], [])
    assert set(cache.genders) == {1, 2, 3, 4}


def test_enrolled_people_never_leave_and_keep_their_names() -> None:
    cache = SpeakerCache(CacheRules(total_seconds=12, max_seconds=10))
    assert cache.enrol("Mike", AUDIO, "hello", "male") == 1
    order = cache.shown()[1]
    for chunk in range(5):
        numbers = cache.update(AUDIO, [line(2 + chunk, 0, 10), line(1, 11, 12)], order)
        assert numbers[1] == 1
        known, order = cache.shown()
        assert known[0].label == "Male 1"
        assert len(known[0].audio) == 160_000
    assert cache.names == {1: "Mike"}
    with pytest.raises(ConfigError, match="after the first chunk"):
        cache.enrol("Lucy", AUDIO)
    again = SpeakerCache()
    again.enrol("Mike", AUDIO)
    with pytest.raises(ConfigError, match="twice"):
        again.enrol("Mike", AUDIO)


@pytest.mark.parametrize("bad", [{"alpha": -1}, {"per_speaker": 0}, {"min_seconds": 0}, {"max_seconds": 50}])
def test_rules_that_contradict_are_refused(bad: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match="speaker cache"):
        CacheRules(**bad)  # type: ignore[arg-type]


@given(
    st.lists(
        st.lists(st.tuples(st.integers(1, 6), st.integers(0, 1800), st.integers(10, 800)), max_size=8), max_size=12
    )
)
def test_the_cache_is_bounded_for_any_recording(chunks: list[list[tuple[int, int, int]]]) -> None:
    rules = CacheRules(per_speaker=2, max_seconds=4, total_seconds=15)
    cache = SpeakerCache(rules)
    order: list[int] = []
    for chunk in chunks:
        lines = [Line(n, None, a, min(a + d, 2000), "x") for n, a, d in sorted(chunk, key=lambda c: c[1])]
        assert len(cache.update(AUDIO, lines, order)) == len(lines)
        known, order = cache.shown()
        assert len(order) == len(set(order))
        assert sum(len(k.audio) for k in known) <= 15 * 16000
        assert max((len(k.audio) for k in known), default=0) <= 4 * 16000
        counts = [sum(k.label == label for k in known) for label in {k.label for k in known}]
        assert max(counts, default=0) <= rules.per_speaker
