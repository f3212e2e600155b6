"""DER against a plain definition, speaker counts, and names that should not be there."""

import pytest

from pipeline.evaluation.records import SegLstRow, SessionTranscript
from pipeline.evaluation.speaker_metrics import NameUse, diarisation, has_times, name_use, score_speakers
from tests.support.scoring import odd_session, plain_der


def session(reference, hypothesis, names=None):
    def make(rows):
        return tuple(SegLstRow("x", *row) for row in rows)

    return SessionTranscript("x", make(reference), make(hypothesis), names=names)


def test_der_equals_its_plain_definition_over_400_random_sessions():
    """With and without a collar, every kind of error to a microsecond."""
    seen = 0
    for seed in range(1500):
        s = odd_session(seed)
        if not has_times(s):
            continue
        seen += 1
        collar = (0.0, 0.25, 0.1)[seed % 3]
        found = diarisation(s, collar)
        seconds = (found.missed, found.false_alarm, found.confusion, found.reference)
        assert seconds == pytest.approx([t / 100 for t in plain_der(s, collar)], abs=1e-6), s
    assert seen >= 400


def test_der_by_hand():
    s = session([("A", "x", 0.0, 4.0), ("B", "x", 3.0, 6.0)], [("1", "x", 0.0, 5.0), ("2", "x", 5.0, 7.0)])
    found = diarisation(s)
    assert (found.missed, found.false_alarm, found.confusion, found.reference) == pytest.approx((1.0, 1.0, 1.0, 7.0))


def test_the_collar_forgives_on_each_side_of_a_boundary():
    s = session([("A", "x", 1.0, 3.0)], [("1", "x", 1.2, 3.2)])
    assert diarisation(s).percent == pytest.approx(20)
    assert diarisation(s, collar=0.25).percent == pytest.approx(0)


def test_der_needs_times_on_both_sides_of_every_session():
    timed = session([("A", "x", 0.0, 1.0)], [("1", "x", 0.0, 1.0)])
    untimed = session([("A", "x", 0.0, 1.0)], [("1", "x")])
    assert has_times(timed)
    assert not has_times(untimed)
    assert score_speakers([timed]).der.percent == 0
    assert score_speakers([timed, untimed]).der is None


def test_speaker_count_counts_speakers_with_words():
    right = session([("A", "x"), ("B", "y")], [("1", "x"), ("2", "y"), ("3", " ")])
    wrong = session([("A", "x"), ("B", "y")], [("1", "x")])
    assert score_speakers([right, wrong]).count_accuracy == 50
    assert score_speakers([]).count_accuracy is None


def test_names_in_over_registration():
    s = session(
        [("A", "x"), ("B", "y")],
        [("A", "x"), ("C", "y"), ("spk0", "z"), ("D", "w"), (None, "v"), ("E", "")],
        names=("A", "B", "C", "E"),
    )
    assert name_use(s) == NameUse(turns=5, absent=1, generic=1, unknown=1, unattributed=1)
    assert name_use(s).percent("absent") == 20


def test_generic_labels_are_no_leak_without_registration():
    assert name_use(session([("spk0", "x")], [("spk0", "x"), ("spk1", "y")])) == NameUse(turns=2)


def test_sums():
    assert NameUse(1, 2, 3, 4, 5) + NameUse(1, 1, 1, 1, 1) == NameUse(2, 3, 4, 5, 6)
    assert NameUse().percent("absent") is None


@pytest.mark.parametrize("times", [(0.0, 1.0), (None, None)])
def test_a_speaker_without_words_counts_only_where_no_speaker_has_words(times):
    """The same whether the format has times (STM) or not (model output)."""
    words, empty = ("A", "x", *times), ("B", " ", *times)
    assert score_speakers([session([words], [words, empty])]).count_accuracy == 100
    assert score_speakers([session([words, empty], [words])]).count_accuracy == 100
    silent = [("A", "", 0.0, 1.0), ("B", "", 1.0, 2.0)]  # RTTM
    assert score_speakers([session(silent, silent[:1])]).count_accuracy == 0
