"""Layouts of conversations: repeatable, within their limits."""

import itertools
from dataclasses import replace

import pytest

from shards.errors import ConfigError
from shards.manifests.summary import speech_and_overlap
from shards.sample import SAMPLE_RATE
from shards.simulation.conversation import draw_layout
from shards.simulation.settings import SimulationSettings
from shards.simulation.utterance_pool import UtterancePool
from tests.support.conversations import PERSONS, SHORT, layouts


def test_layout_is_a_function_of_seed_and_number(sources: UtterancePool) -> None:
    once = layouts(sources, SHORT)
    assert once == layouts(sources, SHORT)
    assert draw_layout(sources, SHORT, 0, 37) == once[37]  # not of the ones before it
    assert draw_layout(sources, SHORT, 1, 37) != once[37]


def test_layouts_respect_the_settings(sources: UtterancePool) -> None:
    drawn = layouts(sources, SHORT, 200)
    for layout in drawn:
        speakers = dict.fromkeys(t.speaker for t in layout.turns)
        assert 2 <= len(speakers) <= 4
        assert len({PERSONS[int(s[-1])] for s in speakers}) == len(speakers)
        assert max(2, len(speakers)) <= len(layout.turns) <= 5
        assert layout.num_samples <= 8.0 * SAMPLE_RATE
        assert all(1 <= len(t.pieces) <= 3 for t in layout.turns)
        assert all(a.start < b.start and a.speaker != b.speaker for a, b in itertools.pairwise(layout.turns))
        assert layout.turns[-1].end < layout.num_samples
    assert {len({t.speaker for t in x.turns}) for x in drawn} == {2, 3, 4}


def test_at_most_two_speakers_overlap_and_no_speaker_overlaps_itself(sources: UtterancePool) -> None:
    drawn = layouts(sources, replace(SHORT, overlap=1.0, overlap_seconds=2.0), 100)
    assert any(b.start < a.end for x in drawn for a, b in itertools.pairwise(x.turns))
    for layout in drawn:
        for turn in layout.turns:
            others = [t for t in layout.turns if t is not turn and t.start < turn.end and turn.start < t.end]
            assert all(t.speaker != turn.speaker for t in others)
            depth = [sum(t.start <= o.start < t.end for t in layout.turns) for o in [turn, *others]]
            assert max(depth) <= 2


def test_zero_overlap_probability_gives_no_overlap(sources: UtterancePool) -> None:
    for layout in layouts(sources, replace(SHORT, overlap=0.0)):
        assert speech_and_overlap([(s.start, s.end) for s in layout.segments])[1] == 0


def test_turns_fill_the_length_if_their_number_is_not_given(sources: UtterancePool) -> None:
    drawn = layouts(sources, replace(SHORT, turns=None, seconds=(6.0, 8.0)))
    assert all(6.0 <= layout.num_samples / SAMPLE_RATE <= 8.0 for layout in drawn)
    assert len({layout.num_samples for layout in drawn}) > 50
    for layout in layouts(sources, SimulationSettings(), 10):  # the paper's setting
        assert layout.num_samples == 50 * SAMPLE_RATE
        assert 2 <= len({t.speaker for t in layout.turns}) <= 4
        assert layout.turns[-1].end > 48 * SAMPLE_RATE  # filled, not padded


def test_texts_are_joined_by_language(sources: UtterancePool) -> None:
    for layout in layouts(sources, SHORT):
        for turn in layout.turns:
            separator = "" if turn.pieces[0].utterance.language == "zh" else " "
            assert turn.text == separator.join(p.utterance.text for p in turn.pieces)


def test_same_language(sources: UtterancePool) -> None:
    drawn = layouts(sources, replace(SHORT, speakers=(2, 2), same_language=True))
    assert {x.language for x in drawn} == {"en", "zh"}
    with pytest.raises(ConfigError, match="no language of the sources has 4 speakers"):
        layouts(sources, replace(SHORT, speakers=(4, 4), same_language=True), 1)
