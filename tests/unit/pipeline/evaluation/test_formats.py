"""Every format read, every format written, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.evaluation.formats import detect, dumps, read, readable, writable, write
from pipeline.evaluation.records import SegLstRow
from shards.errors import ScoreError

SEGMENTS = [
    SegLstRow("m1", "张三", "今天 开会", 0.0, 2.5),
    SegLstRow("m1", "Li Si", "好的", 2.25, 4.0),
    SegLstRow("m2", "张三", "你好", 0.5, 1.0),
]

TEXTGRID = """File type = "ooTextFile"
Object class = "TextGrid"

xmin = 0
xmax = 10
tiers? <exists>
size = 2
item []:
    item [1]:
        class = "IntervalTier"
        name = "SPK1"
        xmin = 0
        xmax = 10
        intervals: size = 3
        intervals [1]:
            xmin = 0
            xmax = 4
            text = ""
        intervals [2]:
            xmin = 4
            xmax = 6
            text = "你好"
        intervals [3]:
            xmin = 6
            xmax = 10
            text = ""
    item [2]:
        class = "IntervalTier"
        name = "SPK2"
        xmin = 0
        xmax = 10
        intervals: size = 1
        intervals [1]:
            xmin = 1
            xmax = 3
            text = "大家好"
"""


def put(path: Path, text: str, encoding: str = "utf-8") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding=encoding)
    return path


@pytest.mark.parametrize("kind", ["seglst", "stm", "rttm"])
def test_what_is_written_is_read_back(tmp_path: Path, kind: str):
    path = put(tmp_path / f"x.{'json' if kind == 'seglst' else kind}", dumps(SEGMENTS, kind))
    assert detect(path) == kind
    words = kind != "rttm"
    name = str if kind == "seglst" else lambda speaker: speaker.replace(" ", "_")
    expected = [SegLstRow(s.session, name(s.speaker), s.text if words else "", s.start, s.end) for s in SEGMENTS]
    assert read(path) == expected


def test_seglst_without_times_and_with_word_lists(tmp_path: Path):
    path = put(
        tmp_path / "x.json",
        '[{"session_id": "a", "speaker": 1, "words": ["x", "y"]}, {"session_id": "a", "words": "z"}]',
    )
    assert read(path) == [SegLstRow("a", "1", "x y"), SegLstRow("a", None, "z")]


def test_meeteval_reads_what_is_written(tmp_path: Path):
    import meeteval

    assert len(meeteval.io.load(put(tmp_path / "x.stm", dumps(SEGMENTS, "stm")))) == 3
    assert len(meeteval.io.load(put(tmp_path / "x.rttm", dumps(SEGMENTS, "rttm")))) == 3


def test_textgrid_tiers_are_speakers_and_the_file_is_the_session(tmp_path: Path):
    put(tmp_path / "tg" / "R1_M1.TextGrid", TEXTGRID)
    assert read(tmp_path / "tg") == [
        SegLstRow("R1_M1", "SPK2", "大家好", 1.0, 3.0),
        SegLstRow("R1_M1", "SPK1", "你好", 4.0, 6.0),
    ]


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_textgrid_in_the_encodings_of_praat(tmp_path: Path, encoding: str):
    assert len(read(put(tmp_path / "a.TextGrid", TEXTGRID, encoding))) == 2


def test_kaldi_with_segments(tmp_path: Path):
    put(tmp_path / "text", "u1 今天 开会\nu2 好\nu3\n")
    put(tmp_path / "utt2spk", "u1 A\nu2 B\nu3 A\n")
    put(tmp_path / "segments", "u1 rec 0 1.5\nu2 rec 1 2\nu3 rec 2 3\n")
    assert read(tmp_path) == [
        SegLstRow("rec", "A", "今天 开会", 0.0, 1.5),
        SegLstRow("rec", "B", "好", 1.0, 2.0),
        SegLstRow("rec", "A", "", 2.0, 3.0),
    ]


def test_kaldi_without_segments_has_one_session_per_utterance(tmp_path: Path):
    put(tmp_path / "text", "u1 今天\nu2 好\n")
    put(tmp_path / "utt2spk", "u1 A\nu2 B\n")
    assert [s.session for s in read(tmp_path)] == ["u1", "u2"]


def test_raw_output_of_a_model(tmp_path: Path):
    put(tmp_path / "m1.txt", "spk0: 你好\nspk1：再见\n")
    put(tmp_path / "m2.txt", "")
    assert read(tmp_path) == [SegLstRow("m1", "spk0", "你好"), SegLstRow("m1", "spk1", "再见")]


def test_raw_json_lines(tmp_path: Path):
    rows = [
        {"session_id": "a", "raw": "Mike: hi Lucy: yo", "names": ["Mike", "Lucy"]},
        {"key": "b", "text": "Male 1 [0.5, 1.0]: x\nMale 1 [3.0, 2.0]: reversed"},
    ]
    path = put(tmp_path / "x.jsonl", "\n".join(map(json.dumps, rows)))
    assert read(path) == [
        SegLstRow("a", "Mike", "hi"),
        SegLstRow("a", "Lucy", "yo"),
        SegLstRow("b", "Male 1", "x", 0.5, 1.0),
        SegLstRow("b", "Male 1", "reversed"),
    ]


def test_both_sides_of_decoded_clips(tmp_path: Path):
    row = {
        "key": "a",
        "mode": "no",
        "raw": "spk0: hi",
        "reference": [{"speaker": "spk0", "start": 0, "end": 1, "text": "ho"}],
    }
    path = put(tmp_path / "no.jsonl", json.dumps(row) + "\n")
    assert read(path, side="reference") == [SegLstRow("a", "spk0", "ho", 0, 1)]
    assert read(path) == [SegLstRow("a", "spk0", "hi")]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("x.json", dumps(SEGMENTS, "seglst")),
        ("x.stm", dumps(SEGMENTS, "stm")),
        ("x.rttm", dumps(SEGMENTS, "rttm")),
        ("x.txt", "spk0: hi"),
        ("x.jsonl", '{"key": "a", "raw": "spk0: hi"}'),
    ],
)
def test_a_byte_order_mark_changes_nothing(tmp_path: Path, name: str, text: str):
    plain, marked = put(tmp_path / "a" / name, text), put(tmp_path / "b" / name, text, "utf-8-sig")
    assert read(plain) == read(marked)
    assert read(plain)


@pytest.mark.parametrize("name", ["x.json", "x.stm", "x.rttm", "x.txt", "x.jsonl"])
def test_empty_file_has_no_rows(tmp_path: Path, name: str):
    assert read(put(tmp_path / name, "")) == []


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("x.json", "{", "not JSON"),
        ("x.json", "{}", "a list of segments"),
        ("x.json", '[{"speaker": "a"}]', "entry 0: not a SegLST segment"),
        (
            "x.json",
            '[{"session_id": "a", "words": "x", "start_time": 2, "end_time": 1}]',
            "ends at 1.0 s before its start",
        ),
        ("x.json", '[{"session_id": "a", "words": "x", "start_time": NaN, "end_time": 1}]', "not a time"),
        ("x.stm", "m1 1 A 0\n", "x.stm:1: not an STM line"),
        ("x.stm", "m1 1 A zero one x\n", "x.stm:1: not an STM line"),
        ("x.stm", "m1 1 A 5 2 hello\n", "before its start"),
        ("x.rttm", "SPEAKER m1 1 0.0\n", "x.rttm:1: not an RTTM line"),
        ("x.rttm", "SPEAKER m1 1 3.0 -1.0 <NA> <NA> A <NA> <NA>\n", "before its start"),
        ("x.TextGrid", "nothing", "invalid TextGrid"),
        ("x.json", "[" * 100_000, "not JSON"),
        ("x.json", '[{"session_id": null, "words": "x"}]', "no session_id"),
        ("x.json", '[{"session_id": "a", "words": 5}]', "entry 0: words must be text"),
        ("x.json", '[{"session_id": "a", "words": "x", "speaker": ["A"]}]', "speaker a name"),
        ("x.stm", "m1 1 A nan 2 hello\n", "x.stm:1: nan is not a time"),
        ("x.stm", "m1 1 A 0 2 IGNORE_TIME_SEGMENT_IN_SCORING\n", "x.stm:1: time to be ignored"),
        ("x.rttm", "SPEAKER m1 1 nan 1.0 <NA> <NA> A <NA> <NA>\n", "x.rttm:1: nan is not a time"),
        ("x.jsonl", "{", "x.jsonl:1: not JSON"),
        ("x.jsonl", '{"key": "a", "raw": "x", "names": "Mike"}', "names must be a list of strings"),
        ("x.jsonl", '{"key": "a", "raw": "x", "names": [1]}', "names must be a list of strings"),
        ("x.jsonl", "[1]", "x.jsonl:1: not a JSON object"),
        ("x.jsonl", '{"key": "a"}', "no text under raw or text"),
        ("x.jsonl", '{"key": "a", "raw": ""}\n{"key": "a", "raw": ""}', "a occurs twice"),
        ("x.docx", "", "unknown format"),
    ],
)
def test_errors_name_file_and_line(tmp_path: Path, name: str, text: str, message: str):
    with pytest.raises(ScoreError, match=message):
        read(put(tmp_path / name, text))


@pytest.mark.parametrize(
    ("reference", "message"),
    [
        (5, "reference is not a list"),
        ([5], "turn 1 of the reference has no text"),
        ([{"speaker": "A"}], "turn 1 of the reference has no text"),
        ([{"speaker": "A", "text": "x", "start": "soon"}], "turn 1: 'soon' is not a time"),
        ([{"speaker": "A", "text": "x", "start": 2, "end": 1}], "before its start"),
    ],
)
def test_damaged_reference_in_json_lines_is_reported(tmp_path: Path, reference: object, message: str):
    path = put(tmp_path / "x.jsonl", json.dumps({"key": "a", "raw": "x", "reference": reference}))
    with pytest.raises(ScoreError, match=message):
        read(path, side="reference")


def test_json_lines_end_at_line_feeds_only(tmp_path: Path):
    path = put(tmp_path / "x.jsonl", json.dumps({"key": "a", "raw": "A: x\u2028y\u0085z"}, ensure_ascii=False) + "\r\n")
    assert [s.text for s in read(path)] == ["x\u2028y\u0085z"]


def test_label_field_of_stm_is_dropped(tmp_path: Path):
    path = put(tmp_path / "x.stm", "m1 1 A 0 1 <o,f0,male> 你好\nm1 1 A 1 2 <sil> 好\n")
    assert [s.text for s in read(path)] == ["你好", "<sil> 好"]


def test_two_tiers_of_one_name_are_refused(tmp_path: Path):
    path = put(tmp_path / "m1.TextGrid", TEXTGRID.replace("SPK2", "SPK1"))
    with pytest.raises(ScoreError, match="invalid TextGrid: two tiers"):
        read(path)


def test_null_words_in_seglst_are_empty_text(tmp_path: Path):
    path = put(tmp_path / "x.json", '[{"session_id": "a", "speaker": 1, "words": null}]')
    assert read(path) == [SegLstRow("a", "1", "")]


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"text": "u1 a\nu1 b\n", "utt2spk": "u1 A\n"}, "text:2: u1 occurs twice"),
        ({"text": "u1 a\n", "utt2spk": "u2 A\n"}, "utterance u1 of text is missing"),
        ({"text": "u1 a\n", "utt2spk": "u1 A\n", "segments": "u1 rec 3\n"}, "no recording, start and end"),
        ({"text": "u1 a\n", "utt2spk": "u1 A\n", "segments": "u1 rec 3 1\n"}, "before its start"),
        ({"text": "u1 a\n", "utt2spk": "u1 A\n", "segments": "u1 rec nan 1\n"}, "u1: 'nan' is not a time"),
        ({"text": "u1 a\n", "utt2spk": "u1\n"}, "utterance u1 has no speaker"),
        ({"text": "u1 a\n"}, "utt2spk: cannot be read"),
    ],
)
def test_bad_kaldi_folders(tmp_path: Path, files: dict[str, str], message: str):
    for name, text in files.items():
        put(tmp_path / name, text)
    with pytest.raises(ScoreError, match=message):
        read(tmp_path)


def test_folders_of_unknown_format_are_refused(tmp_path: Path):
    (tmp_path / "empty").mkdir()
    put(tmp_path / "two" / "a.stm", "")
    put(tmp_path / "two" / "a.json", "")
    for path, message in (
        (tmp_path / "empty", "no transcript"),
        (tmp_path / "two", "several"),
        (tmp_path / "no", "not exist"),
    ):
        with pytest.raises(ScoreError, match=message):
            read(path)


def test_bytes_that_are_not_utf8(tmp_path: Path):
    (tmp_path / "x.stm").write_bytes("m1 1 A 0 1 你好".encode("gbk"))
    with pytest.raises(ScoreError, match="not UTF-8"):
        read(tmp_path / "x.stm")


def test_srt_and_vtt_in_order_of_time():
    segments = [SEGMENTS[1], SEGMENTS[0]]
    assert dumps(segments, "srt") == (
        "1\n00:00:00,000 --> 00:00:02,500\n张三: 今天 开会\n\n2\n00:00:02,250 --> 00:00:04,000\nLi Si: 好的\n"
    )
    assert dumps([SegLstRow("m", "A<b", "1 < 2 & 3", 3661.0, 3662.0007)], "vtt") == (
        "WEBVTT\n\n01:01:01.000 --> 01:01:02.001\n<v A&lt;b>1 &lt; 2 &amp; 3\n"
    )


def test_tsv_and_json_need_no_times():
    untimed = [SegLstRow("m", "A", "x\ty\nz")]
    assert dumps(untimed, "tsv") == "session\tstart\tend\tspeaker\ttext\nm\t\t\tA\tx y z\n"
    assert json.loads(dumps(untimed, "json")) == [
        {"session": "m", "speaker": "A", "start": None, "end": None, "text": "x\ty\nz"}
    ]


@pytest.mark.parametrize("kind", ["stm", "rttm", "srt", "vtt"])
def test_formats_with_times_refuse_segments_without(kind: str):
    with pytest.raises(ScoreError, match="needs times"):
        dumps([SegLstRow("m", "A", "x")], kind)


@pytest.mark.parametrize("kind", writable())
def test_one_file_is_written_per_session(tmp_path: Path, kind: str):
    paths = write(SEGMENTS, tmp_path / kind, kind)
    assert [p.stem for p in paths] == ["m1", "m2"]
    assert all(p.stat().st_size for p in paths)


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
    without = None if kind == "stm" else "<NA>"  # a turn of RTTM always has a speaker
    assert [(r.session, r.speaker) for r in back] == [("m", "Li_Si"), ("n", "Li_Si"), ("n", without)]


@pytest.mark.parametrize("kind", ["stm", "rttm"])
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


def test_unknown_formats_name_the_known_ones(tmp_path: Path):
    with pytest.raises(ScoreError, match="kaldi, raw, rttm, seglst, stm, textgrid"):
        read(put(tmp_path / "x.stm", ""), "ctm")
    with pytest.raises(ScoreError, match="srt, stm, tsv, vtt"):
        dumps([], "ass")
    assert {"seglst", "stm", "rttm", "textgrid", "kaldi", "raw"} <= set(readable())


names = st.text(alphabet=st.characters(codec="utf-8", exclude_categories=("Cs", "Cc")), min_size=1, max_size=8)


@given(st.lists(st.tuples(names, names, st.floats(0, 1e4), st.floats(0, 50)), max_size=6))
def test_any_text_survives_seglst(tmp_path_factory: pytest.TempPathFactory, rows):
    segments = [SegLstRow("m", who, text, start, start + length) for who, text, start, length in rows]
    path = put(tmp_path_factory.mktemp("s") / "x.json", dumps(segments, "seglst"))
    assert read(path) == segments
