"""Names and texts that a format cannot hold: refused, or written so that they stay apart."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.evaluation.formats import dumps, read, write
from pipeline.evaluation.records import SegLstRow
from shards.errors import ScoreError
from tests.support.scoring import put


def test_sessions_that_share_a_file_name_are_refused(tmp_path: Path):
    with pytest.raises(ScoreError, match="both be written"):
        write([SegLstRow("a/b", "A", "x"), SegLstRow("a_b", "A", "x")], tmp_path, "json")


def rows_of(*names: tuple[str, str | None], text: str = "x") -> list[SegLstRow]:
    return [SegLstRow(session, speaker, text, i, i + 1.0) for i, (session, speaker) in enumerate(names)]


@pytest.mark.parametrize("kind", ["stm", "rttm"])
@pytest.mark.parametrize(
    "names",
    [
        (("m", "Li Si"), ("m", "Li_Si")),
        (("m", "Li\u3000Si"), ("m", "Li Si")),
        (("m", " A"), ("m", "A")),
        (("m", None), ("m", "<NA>")),
        (("m", ""), ("m", "<NA>")),
        (("m 3", "A"), ("m_3", "A")),
        (("", "A"), ("<NA>", "A")),
    ],
)
def test_names_that_would_be_equal_are_refused(tmp_path: Path, kind: str, names):
    with pytest.raises(ScoreError, match="would write the names"):
        dumps(rows_of(*names), kind)
    with pytest.raises(ScoreError, match="would write the names"):
        write(rows_of(*names), tmp_path / "out", kind)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("kind", ["stm", "srt", "vtt"])
def test_names_of_very_many_sessions_are_compared_within_each(kind: str):
    rows = rows_of(*((f"m{i}", "A B") for i in range(30_000)), ("n", "A B"), ("n", "A  B"))
    with pytest.raises(ScoreError, match="session n, would write the names 'A B' and 'A  B'"):
        import_module(f"pipeline.evaluation.formats.{kind}").check_names(rows, kind.upper())


def test_names_that_differ_in_white_space_are_refused_in_tsv():
    with pytest.raises(ScoreError, match="TSV would write the names 'Li Si' and 'Li  Si' as 'Li Si'"):
        dumps(rows_of(("m", "Li Si"), ("m", "Li  Si")), "tsv")


@pytest.mark.parametrize("session", [";m2", " ;m2", ";"])
def test_a_session_that_stm_would_read_as_a_comment_is_refused(session: str):
    with pytest.raises(ScoreError, match="as a comment"):
        dumps(rows_of((session, "A")), "stm")
    assert session.strip() in dumps(rows_of((session, "A")), "rttm")


@pytest.mark.parametrize("text", ["<NA>", "<o,f0,male> hi", "ignore_time_segment_in_scoring"])
def test_a_text_that_stm_would_read_as_something_else_is_refused(text: str):
    with pytest.raises(ScoreError, match="STM cannot hold the text"):
        dumps(rows_of(("m", "A"), text=text), "stm")


@pytest.mark.parametrize("kind", ["stm", "rttm"])
def test_the_same_name_in_two_sessions_and_no_name_are_written(tmp_path: Path, kind: str):
    rows = rows_of(("m", "Li Si"), ("n", "Li_Si"), ("n", None))
    back = read(put(tmp_path / f"x.{kind}", dumps(rows, kind)))
    assert [(r.session, r.speaker) for r in back] == [("m", "Li_Si"), ("n", "Li_Si"), ("n", None)]


@pytest.mark.parametrize("kind", ["stm", "rttm"])
@settings(deadline=None)
@given(
    pairs=st.lists(
        st.tuples(
            st.text(alphabet="m3 _;\t", min_size=1, max_size=3), st.none() | st.text(alphabet="A _<N>;", max_size=3)
        ),
        max_size=5,
    )
)
def test_sessions_and_speakers_are_refused_or_stay_apart(tmp_path_factory: pytest.TempPathFactory, kind: str, pairs):
    rows = rows_of(*pairs)
    try:
        text = dumps(rows, kind)
    except ScoreError:
        return
    back = read(put(tmp_path_factory.mktemp("s") / f"x.{kind}", text))
    assert len(back) == len(rows)
    assert len({(r.session, r.speaker) for r in back}) == len({(r.session, r.speaker or None) for r in rows})


names = st.text(
    alphabet=st.characters(codec="utf-8", exclude_categories=("Cs", "Cc", "Zl", "Zp")), min_size=1, max_size=8
)


@settings(deadline=None)
@given(st.lists(st.tuples(names, names, st.floats(0, 1e4), st.floats(0, 50)), max_size=6))
def test_any_text_survives_seglst(tmp_path_factory: pytest.TempPathFactory, rows):
    segments = [
        SegLstRow("m", who if who.strip() else None, text, start, start + length) for who, text, start, length in rows
    ]
    path = put(tmp_path_factory.mktemp("s") / "x.json", dumps(segments, "seglst"))
    assert read(path) == segments
