"""Texts and units that spell them → words with times."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.baselines.interfaces import Word
from pipeline.baselines.word_times import placed, spread


def test_words_take_spaces_and_punctuation_of_the_text():
    units = [
        Word("你", 0.0, 0.2),
        Word("好", 0.2, 0.4),
        Word("Ms", 1.0, 1.2),
        Word("O", 1.2, 1.3),
        Word("Neil", 1.4, 1.8),
    ]
    assert placed(" “你好，Ms. O’Neil!", units) == [
        Word(" “你", 0.0, 0.2), Word("好，", 0.2, 0.4), Word("Ms. ", 1.0, 1.2), Word("O’Neil!", 1.2, 1.8),
    ]  # fmt: skip


def test_letters_that_no_unit_has_lie_between_their_neighbours():
    words = placed("一二三四", [Word("一", 0.0, 1.0), Word("x", 1.0, 1.5), Word("四", 3.0, 4.0)])
    assert [(w.start, w.end) for w in words] == [(0.0, 1.0), (1.0, 2.0), (2.0, 3.0), (3.0, 4.0)]
    assert placed("一", [Word("…", 2.0, 3.0)]) == [Word("一", 2.0, 3.0)]
    assert placed("…", []) == spread(" 。", 0.0, 9.0) == []


def test_the_dot_of_japanese_names_is_punctuation():
    words = placed("ミカ・リ・", [Word("ミカ", 0.0, 1.0), Word("リ", 5.0, 6.0)])
    assert [(w.text, w.start, w.end) for w in words] == [("ミ", 0.0, 0.5), ("カ・", 0.5, 1.0), ("リ・", 5.0, 6.0)]
    assert spread("・", 0.0, 1.0) == []


def test_words_are_spread_by_their_letters():
    words = spread("ab cdef 好", 1.0, 8.0)
    assert [(w.text, w.start, w.end) for w in words] == [("ab ", 1.0, 3.0), ("cdef ", 3.0, 7.0), ("好", 7.0, 8.0)]


TEXT = st.text(st.sampled_from("ab好天ス・のé1 ,'’。_-👍"), max_size=30)


@given(TEXT, TEXT)
def test_no_character_is_lost_and_times_are_within_the_units(text: str, heard: str):
    units = [Word(c, float(i), i + 0.5) for i, c in enumerate(heard)] or [Word("", 0.0, 0.0)]
    for words in (placed(text, units), spread(text, 0.0, 30.0)):
        if any(c.isalnum() for c in text):
            assert "".join(w.text for w in words) == text
        assert all(0.0 <= w.start <= w.end <= 30.0 for w in words)


def test_a_unit_that_ends_before_it_starts_has_no_length():
    assert placed("好", [Word("好", 2.0, 1.0)]) == [Word("好", 2.0, pytest.approx(2.0))]
