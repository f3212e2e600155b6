"""Words × turns: the rule, case by case, and what it must never do."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from pipeline.baselines.interfaces import DiarizedTurn, Word
from pipeline.baselines.join_words import join, speakers

A, B = DiarizedTurn("a", 0.0, 2.0), DiarizedTurn("b", 1.0, 3.0)  # 1.0–2.0 s: both


def test_a_word_goes_to_the_voice_that_covers_most_of_it():
    assert speakers([Word(" x", 0.7, 1.0), Word(" y", 1.8, 2.4)], [A, B]) == ["a", "b"]


def test_in_overlap_the_voice_of_the_word_before_continues():
    words = [Word(" x", 0.5, 0.9), Word(" y", 1.2, 1.6), Word(" z", 2.1, 2.5), Word(" w", 2.5, 2.9)]
    assert speakers(words, [A, B]) == ["a", "a", "b", "b"]


def test_in_overlap_without_a_word_before_the_voice_that_came_in_last_is_heard():
    assert speakers([Word(" y", 1.2, 1.6)], [A, B]) == ["b"]
    assert speakers([Word(" y", 1.2, 1.6)], [DiarizedTurn("z", 0.0, 2.0), DiarizedTurn("a", 1.0, 3.0)]) == ["a"]


def test_a_word_outside_all_turns_goes_to_the_nearest_and_at_equal_distance_to_the_one_before():
    turns = [DiarizedTurn("a", 0.0, 1.0), DiarizedTurn("b", 3.0, 4.0)]
    words = [Word(" x", 1.1, 1.3), Word(" y", 1.75, 2.25), Word(" z", 2.6, 2.8), Word(" w", 9.0, 9.5)]
    assert speakers(words, turns) == ["a", "a", "b", "b"]


def test_a_word_without_length_is_a_point():
    assert speakers([Word("x", 2.5, 2.5)], [A, B]) == ["b"]


def test_two_turns_of_one_voice_count_together():
    turns = [DiarizedTurn("a", 0.0, 0.3), DiarizedTurn("a", 0.5, 0.8), DiarizedTurn("b", 0.2, 0.6)]
    assert speakers([Word("x", 0.0, 0.8)], turns) == ["a"]


def test_words_become_segments_by_voice_and_pause():
    words = [Word(" Hi", 0.0, 0.4), Word(" there.", 0.4, 0.9), Word(" Oh", 2.2, 2.6), Word(" well", 4.0, 4.4)]
    found = join("s", words, [DiarizedTurn("9", 0.0, 1.0), DiarizedTurn("4", 2.0, 5.0)])
    assert [(s.speaker, s.text, s.start, s.end) for s in found] == [
        ("spk0", "Hi there.", 0.0, 0.9), ("spk1", "Oh", 2.2, 2.6), ("spk1", "well", 4.0, 4.4),
    ]  # fmt: skip


def test_chinese_characters_are_joined_without_spaces():
    words = [Word(c, 0.1 * i, 0.1 * i + 0.1) for i, c in enumerate("你好吗")]
    assert [s.text for s in join("s", words, [DiarizedTurn("a", 0, 1)])] == ["你好吗"]


def test_without_turns_all_words_are_one_voice_and_without_words_there_is_no_segment():
    assert [(s.speaker, s.text) for s in join("s", [Word("x", 0, 1), Word(" y", 1, 2)], [])] == [("spk0", "x y")]
    assert join("s", [], [A, B]) == []


_TIME = st.floats(0, 20, allow_nan=False)
_WORDS = st.lists(st.builds(lambda a, d, t: Word(f" {t}", a, a + d), _TIME, st.floats(0, 1), st.sampled_from("xyz")))
_TURNS = st.lists(
    st.builds(lambda a, d, s: DiarizedTurn(s, a, a + 0.01 + d), _TIME, st.floats(0, 5), st.sampled_from("abc"))
)


@given(_WORDS, _TURNS)
def test_no_word_is_lost_or_doubled_whatever_the_turns(words: list[Word], turns: list[DiarizedTurn]):
    found = join("s", words, turns)
    assert " ".join(s.text for s in found).split() == [
        w.text.strip() for w in sorted(words, key=lambda w: (w.start, w.end))
    ]
    assert {s.speaker for s in found} <= {"spk0", "spk1", "spk2"}
    assert all(s.start <= s.end for s in found)
