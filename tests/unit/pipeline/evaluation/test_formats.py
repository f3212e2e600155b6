"""Every format read, written and read back, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pipeline.evaluation.formats import detect, dumps, read, readable
from pipeline.evaluation.records import SegLstRow
from shards.errors import ScoreError
from tests.support.scoring import put

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
        (
            "x.json",
            '[{"session_id": "a", "words": [{"token": "x"}]}]',
            "entry 0: words must be text or a list of words",
        ),
        (
            "x.json",
            '[{"session_id": "a", "words": [{"word": null}]}]',
            "entry 0: words must be text or a list of words",
        ),
        ("x.json", '[{"session_id": "a", "words": [["x"]]}]', "entry 0: words must be text or a list of words"),
        ("x.json", '[{"session_id": "a", "words": "x"}, {"session_id": "a", "transcript": "y"}]', "entry 1: no words,"),
        ("x.json", '[{"session_id": "a", "speaker": true, "words": "x"}]', "speaker a name, not True"),
        ("x.json", '[{"session_id": "a", "text": {"x": 1}}]', "entry 0: text must be text or a list of words"),
        ("x.json", '[{"session_id": "a", "speaker": "Mi\\rke", "words": "x"}]', "speaker 'Mi.rke' holds a line break"),
        ("x.json", '[{"session_id": "a", "speaker": "Mike\\u2028", "words": "x"}]', "speaker .* holds a line break"),
        ("x.json", '[{"session_id": "a", "speaker": "\\ud800", "words": "x"}]', "control character; rename it"),
        ("x.json", '[{"session_id": "a\\u0085", "speaker": "A", "words": "x"}]', "session 'a.x85' holds a line break"),
        ("x.jsonl", '{"key": "a\\n", "raw": "A: x"}', "session 'a.n' holds a line break"),
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
        ([{"speaker": "A", "text": "x", "start": 10**400}], "turn 1: 10+ is not a time"),
        ([{"speaker": "A", "text": "x", "start": True}], "turn 1: True is not a time"),
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


def test_channel_of_any_name_beside_an_integer_time(tmp_path: Path):
    rows = [SegLstRow("m1", "A", "hello", 1, 2)]
    assert read(put(tmp_path / "x.stm", "m1 A A 1 2 hello\n")) == rows
    turns = read(put(tmp_path / "x.rttm", "SPEAKER m1 <NA> 1 1 <NA> <NA> A <NA> <NA>\n"))
    assert turns == [SegLstRow("m1", "A", "", 1, 2)]


def test_time_of_stm_to_be_ignored_is_refused_in_any_form(tmp_path: Path):
    for text in ("<o,,unknown> ignore_time_segment_in_scoring", "Ignore_Time_Segment_In_Scoring"):
        with pytest.raises(ScoreError, match=r"x\.stm:1: time to be ignored"):
            read(put(tmp_path / "x.stm", f"m1 1 inter_segment_gap 0 2 {text}\n"))
    assert read(put(tmp_path / "x.stm", "m1 1 A 0 1 <o,f0,male> <NA>\n"))[0].text == ""


def test_label_field_of_stm_is_dropped(tmp_path: Path):
    path = put(tmp_path / "x.stm", "m1 1 A 0 1 <o,f0,male> 你好\nm1 1 A 1 2 <sil> 好\n")
    assert [s.text for s in read(path)] == ["你好", "<sil> 好"]


def test_two_tiers_of_one_name_are_refused(tmp_path: Path):
    path = put(tmp_path / "m1.TextGrid", TEXTGRID.replace("SPK2", "SPK1"))
    with pytest.raises(ScoreError, match="invalid TextGrid: two tiers"):
        read(path)


def test_words_of_seglst_in_the_forms_of_recognisers(tmp_path: Path):
    rows = [
        {"session_id": "a", "speaker": "A", "words": [{"word": "x", "start": 0.1}, {"word": " y"}]},
        {"session_id": "a", "speaker": "A", "words": [{"text": "z"}, "w"]},
        {"session_id": "a", "speaker": "A", "text": "only text"},
        {"session_id": "a", "speaker": "A", "words": "these", "text": "not these"},
        {"session_id": "a", "speaker": "A", "words": "", "text": "instead"},
    ]
    path = put(tmp_path / "x.json", json.dumps(rows))
    assert [r.text for r in read(path)] == ["x y", "z w", "only text", "these", "instead"]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        (
            "x.json",
            '[{"session_id": "a", "speaker": "A", "words": "x", "start_time": 1.3, "end_time": 1.2999999999999996}]',
        ),
        ("x.stm", "a 1 A 1.3 1.2999999999999996 x\n"),
    ],
)
def test_an_end_that_rounding_puts_before_its_start_is_the_start(tmp_path: Path, name: str, text: str):
    assert read(put(tmp_path / name, text)) == [SegLstRow("a", "A", "x", 1.3, 1.3)]


def test_names_of_a_model_that_hold_line_breaks_are_kept_on_one_line(tmp_path: Path):
    path = put(tmp_path / "x.jsonl", json.dumps({"key": "a", "raw": "Mi\u2028ke: x"}))
    assert read(path) == [SegLstRow("a", "Mi ke", "x")]


@pytest.mark.parametrize("suffix", ["json", "stm", "jsonl", "tsv"])
def test_one_session_in_two_files_is_refused(tmp_path: Path, suffix: str):
    row = SegLstRow("m1", "A", "x", 0.0, 1.0)
    text = (
        '{"key": "m1", "raw": "A: x"}' if suffix == "jsonl" else dumps([row], "seglst" if suffix == "json" else suffix)
    )
    for name in "ab":
        put(tmp_path / f"{name}.{suffix}", text)
    with pytest.raises(ScoreError, match=rf"session m1 occurs twice, in .*a.{suffix} and .*b.{suffix}"):
        read(tmp_path)


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


def test_unknown_formats_name_the_known_ones(tmp_path: Path):
    with pytest.raises(
        ScoreError, match="json, kaldi, raw, rttm, seglst, srt, stm, textgrid, tsv, vtt, funasr, gemini"
    ):
        read(put(tmp_path / "x.stm", ""), "ctm")
    with pytest.raises(ScoreError, match="srt, stm, tsv, vtt"):
        dumps([], "ass")
    assert {"seglst", "stm", "rttm", "textgrid", "kaldi", "raw"} <= set(readable())
