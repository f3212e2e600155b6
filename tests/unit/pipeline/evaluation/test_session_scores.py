"""CER, cpCER, saCER and ORC-CER against plain definitions and against meeteval."""

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.evaluation.edit_distance import KALDI_CELLS, Edits, align, count, encode
from pipeline.evaluation.metrics.orc_cer import orc_edits
from pipeline.evaluation.normalize import profile
from pipeline.evaluation.records import SegLstRow, SessionTranscript
from pipeline.evaluation.session_scores import names_are_shared, score_session, total
from pipeline.evaluation.tokens import Tokens, streams
from tests.support.scoring import (
    odd_session,
    plain_cer,
    plain_cp,
    plain_distance,
    plain_orc,
    plain_sa,
    random_session,
)

NONE = profile("none")


def session(reference, hypothesis):
    """From ``[(speaker, text), …]``, or with a start time."""

    def segment(speaker, text, start=None):
        return SegLstRow("x", speaker, text, start, None if start is None else start + 1)

    return SessionTranscript("x", tuple(segment(*r) for r in reference), tuple(segment(*h) for h in hypothesis))


def score(reference, hypothesis, **options):
    return score_session(session(reference, hypothesis), NONE, by_name=True, **options)


def test_figures_equal_their_plain_definitions_over_500_random_sessions():
    for seed in range(500):
        s = random_session(seed, speakers=4)
        found = score_session(s, NONE, by_name=True)
        assert (found.cer.errors, found.cpcer.errors, found.sacer.errors) == (plain_cer(s), plain_cp(s), plain_sa(s)), s
        assert (
            found.cer.reference
            == found.cpcer.reference
            == found.sacer.reference
            == sum(len(x.text) for x in s.reference)
        )


def test_figures_equal_their_plain_definitions_over_400_odd_sessions():
    """With times on either side, text without a speaker, turns without text, and other names."""
    seen = 0
    for seed in range(400):
        s = odd_session(seed)
        found = score_session(s, NONE, by_name=True)
        assert found.cer.errors == plain_cer(s), s
        if s.reference and all(r.speaker is None for r in s.reference):
            assert found.cpcer is None
            continue
        assert (found.cpcer.errors, found.sacer.errors) == (plain_cp(s), plain_sa(s)), s
        seen += found.cpcer.errors < found.sacer.errors
    assert seen > 100


def test_cpcer_equals_meeteval_on_characters_over_500_random_sessions():
    import meeteval

    for seed in range(500):
        s = random_session(seed + 1000, speakers=8, turns=30, length=30)
        ours = score_session(s, NONE).cpcer
        theirs = meeteval.wer.cp_word_error_rate(_seglst(s.reference), _seglst(s.hypothesis))
        assert ours == Edits(theirs.insertions, theirs.deletions, theirs.substitutions, theirs.length)


def _seglst(segments):
    import meeteval

    rows = [
        {"session_id": s.session, "speaker": s.speaker, "words": " ".join(s.text)}
        | ({} if s.start is None else {"start_time": s.start, "end_time": s.end})
        for s in segments
    ]
    return meeteval.io.SegLST(rows)


def test_orc_equals_its_plain_definition():
    for seed in range(60):
        s = random_session(seed, speakers=3, turns=5, length=6)
        split = Tokens(NONE)
        edits, exact = orc_edits(split.rows(s.reference), streams(split.rows(s.hypothesis)))
        assert exact
        assert edits.errors == plain_orc(s), s


def test_greedy_orc_is_an_upper_bound_and_marked_so():
    for seed in range(30):
        s = random_session(seed, speakers=3, turns=6, length=8)
        split = Tokens(NONE)
        ref, hyp = split.rows(s.reference), streams(split.rows(s.hypothesis))
        greedy, exact = orc_edits(ref, hyp, cells=0)
        assert greedy.errors >= orc_edits(ref, hyp)[0].errors
        assert not exact or not any(hyp.values()) or not any(t for _, t in ref)


segments = st.lists(
    st.tuples(st.sampled_from(["A", "B", "C", None]), st.text(alphabet="ab ，1", max_size=5)), max_size=6
)


@settings(max_examples=300, deadline=None)
@given(segments, segments)
def test_best_assignment_is_never_worse_than_names_or_an_empty_hypothesis(reference, hypothesis):
    for name in ("none", "paper-zh", "en"):
        found = score_session(session(reference, hypothesis), profile(name), by_name=True)
        if found.cpcer is not None:
            assert found.cpcer.errors <= found.sacer.errors
            said = found.cer.reference + found.cer.insertions - found.cer.deletions
            assert (
                abs(found.cer.reference - said)
                <= found.cer.errors
                <= found.sacer.errors + max(found.cer.reference, said)
            )
            assert found.cpcer.reference == found.cer.reference == found.sacer.reference


def test_reference_order_is_time_and_hypothesis_order_is_as_emitted():
    found = score([("A", "三四", 5.0), ("B", "一二", 1.0)], [("B", "一二"), ("A", "三四")])
    assert (found.cer.errors, found.cpcer.errors, found.sacer.errors) == (0, 0, 0)


def test_a_hypothesis_with_times_is_ordered_by_them():
    assert score([("A", "一二", 1.0), ("A", "三四", 2.0)], [("A", "三四", 2.0), ("A", "一二", 1.0)]).cer.errors == 0
    assert score([("A", "一二", 1.0), ("A", "三四", 2.0)], [("A", "三四"), ("A", "一二")]).cer.errors == 4


def test_segments_of_equal_start_keep_their_order():
    assert score([("A", "一", 1.0), ("B", "二", 1.0)], [("A", "一"), ("B", "二")]).cer.errors == 0


def test_an_unknown_name_is_all_insertions_and_a_missing_one_all_deletions():
    found = score([("A", "一二三")], [("Z", "一二三")])
    assert found.sacer == Edits(insertions=3, deletions=3, substitutions=0, reference=3)
    assert found.cpcer == Edits(reference=3)


def test_text_without_a_speaker_counts_in_cer_and_is_all_insertions_elsewhere():
    found = score([("A", "一二三")], [(None, "一二"), ("A", "三")])
    assert found.cer.errors == 0
    assert found.cpcer == Edits(insertions=2, deletions=2, reference=3)
    assert found.sacer == Edits(insertions=2, deletions=2, reference=3)


def test_a_reference_without_speakers_has_no_cpcer():
    found = score([(None, "一二")], [("A", "一二")])
    assert found.cer.errors == 0
    assert found.cpcer is None
    assert found.sacer is None


def test_an_empty_reference_has_no_rate_but_its_errors_count_in_a_sum():
    empty = score([], [("A", "一二")])
    assert empty.cer == empty.cpcer == empty.sacer == Edits(insertions=2)
    assert empty.cer.rate is None
    sums = total([empty, score([("A", "一二三四")], [("A", "一二三四")])])
    assert sums.cer == Edits(insertions=2, reference=4)
    assert sums.cer.percent == 50
    assert total([empty]).delta_cp is None


def test_an_empty_hypothesis_is_all_deletions():
    found = score([("A", "一二"), ("B", "三")], [])
    assert found.cer == found.cpcer == found.sacer == Edits(deletions=3, reference=3)


def test_empty_reference_and_hypothesis():
    found = score([], [])
    assert found.cer == found.cpcer == found.sacer == Edits()
    assert total([]).cer.rate is None


def test_deltas_are_not_clamped():
    """Streams crossed in time: by speaker everything fits, in one stream it does not."""
    found = total([score([("A", "一二三", 0.0), ("B", "四五六", 0.5)], [("B", "四五六"), ("A", "一二三")])])
    assert found.cpcer.errors == 0
    assert found.delta_cp < 0
    assert found.delta_sa < 0


def test_twelve_speakers():
    names = [f"S{i}" for i in range(12)]
    rng = random.Random(0)
    texts = {n: "".join(rng.choices("一二三四五六七八九十", k=50)) for n in names}
    other = rng.sample(names, 12)
    found = score([(n, texts[n]) for n in names], [(f"h{n}", texts[n]) for n in other])
    assert found.cpcer.errors == 0
    assert set(found.assignment) == {(n, f"h{n}") for n in names}
    assert found.sacer.errors == 2 * 12 * 50


def test_more_speakers_than_any_meeting_has():
    found = score([("A", "一二三")], [(f"h{i}", "一") for i in range(60)])
    assert found.cpcer == Edits(insertions=59, deletions=2, reference=3)


def test_hundred_thousand_characters():
    """Past what 16-bit costs and whole tables in memory can hold."""
    rng = random.Random(1)
    text = "".join(rng.choices("一二三四五六七八九十百千万", k=100_000))
    wrong = text[:10] + text[10:-40_000:1].replace("百", "千", 500)
    found = score([("A", text)], [("A", wrong)])
    assert found.cer == found.cpcer == found.sacer
    assert found.cer.deletions - found.cer.insertions == 40_000
    assert 40_000 <= found.cer.errors <= 40_500


def test_sums_do_not_depend_on_the_order_of_sessions():
    scores = [score_session(random_session(i), NONE, by_name=True) for i in range(200)]
    expected = total(scores)
    for seed in range(5):
        shuffled = random.Random(seed).sample(scores, len(scores))
        assert total(shuffled) == expected
        halves = total(shuffled[:77]), total(shuffled[77:])
        assert halves[0].cer + halves[1].cer == expected.cer
        assert halves[0].sacer + halves[1].sacer == expected.sacer


def test_figure_that_one_session_lacks_has_no_sum():
    both = [score([("A", "一")], [("A", "一")]), score([(None, "一")], [("A", "一")])]
    assert total(both).cpcer is None
    assert total(both).cer == Edits(reference=2)


def test_names_are_shared_only_where_real_names_agree():
    assert names_are_shared([session([("A", "一")], [("A", "一")])])
    assert not names_are_shared([session([("A", "一")], [("spk0", "一")])])
    assert not names_are_shared([session([("spk0", "一")], [("spk0", "一")])])


tokens = st.lists(st.sampled_from(["a", "b", "word", "other", "一"]), max_size=25)


@settings(max_examples=300, deadline=None)
@given(tokens, tokens)
def test_distance_and_alignment_agree_with_the_plain_distance(a, b):
    edits = count(*encode(a, b))
    steps = align(a, b)
    assert edits.errors == plain_distance(a, b) == sum(kind != "correct" for kind, _, _ in steps)
    assert [i for _, i, _ in steps if i is not None] == list(range(len(a)))
    assert [j for _, _, j in steps if j is not None] == list(range(len(b)))
    for kind, i, j in steps:
        assert kind != "correct" or a[i] == b[j]


@pytest.mark.parametrize("size", [1000, 2500])
def test_kaldialign_and_rapidfuzz_count_the_same_total(size):
    rng = random.Random(size)
    a = "".join(rng.choices("abc", k=size))
    b = "".join(c for c in a if rng.random() > 0.1)
    assert (len(a) * len(b) > KALDI_CELLS) == (size == 2500)
    found = count(a, b)
    assert found.errors == plain_distance(list(a), list(b))
    assert found.deletions - found.insertions == len(a) - len(b)


def test_edits_add_up():
    assert Edits(1, 2, 3, 10) + Edits(4, 5, 6, 20) == Edits(5, 7, 9, 30)
    assert sum([Edits(1, 0, 0, 2), Edits(0, 1, 0, 2)]).percent == 50
