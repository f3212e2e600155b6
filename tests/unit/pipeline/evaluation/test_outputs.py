"""What other systems write: every format by name and by content, cut, damaged, fuzzed; nothing is lost."""

from __future__ import annotations

import json
import math
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.evaluation.cli import main
from pipeline.evaluation.decoded_rows import decoded_session
from pipeline.evaluation.formats import detect, notes, read
from pipeline.evaluation.output_reading import Reading
from pipeline.evaluation.outputs import outputs, parse_output, sniff
from pipeline.evaluation.records import SegLstRow
from shards.errors import ScoreError

Turn = tuple[str | None, str, float | None, float | None]

VIBEVOICE = """```json
[{"Start":0,"End":2.5,"Speaker":0,"Content":"Hi."},
 {"Start":2.5,"End":3.1,"Content":"[Noise]"},
 {"Start":3,"End":4.25,"Speaker":1,"Content":"你好 \\"you\\""}]
```"""
OPENAI = json.dumps({
    "task": "transcribe", "duration": 4.2, "text": "Hi. You",
    "segments": [
        {"type": "transcript.text.segment", "id": "seg_1", "start": 0.0, "end": 1.5, "text": " Hi.", "speaker": "A"},
        {"type": "transcript.text.segment", "id": "seg_2", "start": 1.2, "end": 4.2, "text": "You", "speaker": "Mike"},
    ],
    "usage": {"type": "duration", "seconds": 5},
})  # fmt: skip
WHISPERX = json.dumps({
    "segments": [
        {"start": 0.0, "end": 1.5, "text": " Hi.", "speaker": "SPEAKER_00",
         "words": [{"word": "Hi.", "start": 0, "end": 1, "score": 0.9}]},
        {"start": 1.5, "end": 2.0, "text": "You", "words": []},
    ],
    "word_segments": [{"word": "Hi.", "start": 0, "end": 1}], "language": "en",
})  # fmt: skip
PYANNOTE = json.dumps({
    "diarization": [
        {"start": 0.1, "end": 2.0, "speaker": "SPEAKER_00"}, {"start": 1, "end": 3, "speaker": "SPEAKER_01"},
    ],
    "exclusive_diarization": [{"start": 0.1, "end": 1.5, "speaker": "SPEAKER_00"}],
})  # fmt: skip
FUNASR = json.dumps([{
    "key": "rec", "text": "你好嗯",
    "sentence_info": [
        {"text": "你好", "start": 480, "end": 1660, "spk": 0, "timestamp": [[480, 900]]},
        {"sentence": "嗯", "start": 1660, "end": 1900, "spk": 1},
    ],
}], ensure_ascii=False)  # fmt: skip
TAGSPEECH = """<text>
0.00-1.21>HELLO THERE
1.00-2.00>好的
3.14-5.20>AGAIN
</text>
<speaker>
<spk id="1" g="f" t="0.00-1.21,3.14-5.20"/>
<spk id="2" g="u" t="1.00-2.00"/>
</speaker>"""

# format → its text, and the turns
EXAMPLES: dict[str, tuple[str, list[Turn]]] = {
    "vibevoice": (VIBEVOICE, [("0", "Hi.", 0, 2.5), (None, "[Noise]", 2.5, 3.1), ("1", '你好 "you"', 3, 4.25)]),
    "openai-diarized": (OPENAI, [("A", "Hi.", 0, 1.5), ("Mike", "You", 1.2, 4.2)]),
    "whisperx": (WHISPERX, [("SPEAKER_00", "Hi.", 0, 1.5), (None, "You", 1.5, 2.0)]),
    "pyannote": (PYANNOTE, [("SPEAKER_00", "", 0.1, 2.0), ("SPEAKER_01", "", 1, 3)]),
    "funasr": (FUNASR, [("0", "你好", 0.48, 1.66), ("1", "嗯", 1.66, 1.9)]),
    "tagspeech": (TAGSPEECH, [("1", "HELLO THERE", 0, 1.21), ("2", "好的", 1, 2), ("1", "AGAIN", 3.14, 5.2)]),
    "moss": ("[0.48][S01]你好[1.66][1.20][S02]嗯[1.9][2][x[2.5]",
             [("S01", "你好", 0.48, 1.66), ("S02", "嗯", 1.2, 1.9), (None, "[x", 2, 2.5)]),
    "soulx": ("[00:01.200 --> 00:03.450] Speaker 1: 好: 是\n[01:00:02.000 --> 01:00:03] Speaker 2: ok\n",
              [("Speaker 1", "好: 是", 1.2, 3.45), ("Speaker 2", "ok", 3602, 3603)]),
    "granite": ("[Speaker 1]: how are you [Speaker 2]: fine\n",
                [("Speaker 1", "how are you", None, None), ("Speaker 2", "fine", None, None)]),
    "sortformer": ("['0.08 2.40 speaker_0', '2.0 3.5 speaker_1']",
                   [("speaker_0", "", 0.08, 2.4), ("speaker_1", "", 2, 3.5)]),
    "vibevoice-streaming": ("Speaker 0: hi there<|text_chunk_end|>Speaker 1: yes<|text_chunk_end|>",
                            [("Speaker 0", "hi there", None, None), ("Speaker 1", "yes", None, None)]),
    "gemini": ('{"segments": [{"speaker": "Speaker 1", "timestamp": "00:12", "content": "Hi"}, '
               '{"speaker": "Speaker 2", "timestamp": "01:15", "content": "Yo"}]}',
               [("Speaker 1", "Hi", 12, 75), ("Speaker 2", "Yo", 75, 75)]),
    "speaker-reasoner": ("<think>x</think><answer>\nMale 1 [0.0, 1.08]: 哈哈。\n</answer>",
                         [("Male 1", "哈哈。", 0, 1.08)]),
}  # fmt: skip


def turns(rows) -> list[Turn]:
    return [(r.speaker, r.text, r.start, r.end) for r in rows]


def test_every_format_has_an_example():
    assert set(EXAMPLES) == set(outputs())


@pytest.mark.parametrize("kind", EXAMPLES)
def test_a_format_is_read_by_name_by_content_and_in_rows_of_clips(tmp_path: Path, kind: str):
    text, expected = EXAMPLES[kind]
    assert turns(parse_output(kind, "s", text)[0]) == expected
    assert sniff([text]) == kind
    for suffix in ("", ".json" if text[:1] in "[{" and kind != "moss" else ".txt"):
        (path := tmp_path / f"s{suffix}").write_text(text, encoding="utf-8")
        assert detect(path) == kind
        assert turns(read(path)) == turns(read(path, kind)) == expected
    (tmp_path / "x.jsonl").write_text(json.dumps({"key": "s", "raw": text}) + "\n", encoding="utf-8")
    assert turns(read(tmp_path / "x.jsonl")) == expected
    clip = {"key": "s", "raw": text, "format": kind, "names": [], "mode": "no", "reference": []}
    assert turns(decoded_session(clip).hypothesis) == expected


@pytest.mark.parametrize("kind", EXAMPLES)
def test_a_folder_is_of_the_format_of_most_files_and_convert_reads_it(tmp_path: Path, kind: str, capsys):
    text, expected = EXAMPLES[kind]
    folder = tmp_path / "hyp"
    folder.mkdir()
    for name in "ab":
        (folder / f"{name}.txt").write_text(text, encoding="utf-8")
    (folder / "c.txt").write_text("no such thing", encoding="utf-8")
    assert detect(folder) == kind
    assert main(["convert", str(folder), str(tmp_path / "out"), "--to", "seglst"]) == 0
    back = read(tmp_path / "out")
    assert [r.session for r in back] == ["a"] * len(expected) + ["b"] * len(expected) + ["c"]
    assert back[-1].text == "no such thing"
    assert notes(folder / "c.txt", kind)["c"]


def test_own_files_are_not_taken_for_others():
    assert sniff(["Mike: hi\nLucy: [0.5] yes", "spk0 [0.0, 1.0]: x", '[{"session": "a", "text": "x"}]']) is None
    assert sniff(["", " "]) is None


def test_an_unknown_format_of_a_row_is_refused():
    with pytest.raises(ScoreError, match="unknown format 'magic' of a text; known: funasr"):
        decoded_session({"key": "s", "raw": "x", "format": "magic", "names": [], "reference": []})


@pytest.mark.parametrize("kind", ["vibevoice", "openai-diarized", "whisperx", "pyannote", "funasr", "gemini"])
def test_cut_json_is_read_up_to_the_cut_and_marked(kind: str):
    text, expected = EXAMPLES[kind]
    body = text.strip("`json\n")
    whole = len(parse_output(kind, "s", body)[0])
    for at in range(len(body) - 1, 0, -1):
        assert len(parse_output(kind, "s", body[:at])[0]) <= whole, at
    second = body.rindex("{", 0, body.index("SPEAKER_01") if kind == "pyannote" else body.rindex(expected[1][1]))
    rows, said = parse_output(kind, "s", body[: second + 5])
    last = rows[0].end if kind == "gemini" else expected[0][3]
    assert turns(rows)[0] == (*expected[0][:3], last)
    assert "cut off before its end" in said


def test_an_item_cut_inside_its_words_keeps_what_was_written():
    rows, said = parse_output(
        "vibevoice",
        "s",
        '[{"Start":0,"End":1,"Speaker":0,"Content":"a"},{"Start":1,"End":2,"Speaker":1,"Content":"hello wor',
    )
    assert turns(rows) == [("0", "a", 0, 1), ("1", "hello wor", 1, 2)]
    assert [n.split(" (")[0] for n in said] == ["damaged objects, read field by field", "cut off before its end"]


def test_text_around_the_json_is_shown_and_no_turn():
    rows, said = parse_output("vibevoice", "s", f"Here it is:\n{VIBEVOICE}\nAnything else?")
    assert turns(rows) == EXAMPLES["vibevoice"][1]
    assert said == ("text outside of the JSON (2): Here it is: | Anything else?",)


def test_items_that_do_not_parse_are_counted_listed_and_kept():
    rows, said = parse_output(
        "vibevoice",
        "s",
        '[{"Start":0,"End":1,"Speaker":0,"Content":"a"}, {"what": 1}, "b", {"Start":"x","Content":"c","mood":"calm"}]',
    )
    assert turns(rows) == [
        ("0", "a", 0, 1),
        (None, '{"what": 1}', None, None),
        (None, "b", None, None),
        (None, "c", None, None),
    ]
    assert said == (
        'pieces that do not parse (2): {"what": 1} | b',
        'times that are not (1): "x"',
        'fields that the format does not have (1): "mood": "calm"',
    )


def test_a_key_that_occurs_again_keeps_its_first_value_and_the_others_are_numbered():
    text = '[{"Content":"a","Content":"b","Content":"c","Content (2)":"d","Start":0,"End":1,"Speaker":0}]'
    rows, said = parse_output("vibevoice", "s", text)
    assert turns(rows) == [("0", "a", 0, 1)]
    assert said == (
        'fields that the format does not have (3): "Content (2)": "b" | "Content (3)": "c" | "Content (2) (2)": "d"',
    )


def test_a_second_field_for_one_thing_is_noted():
    rows, said = parse_output("gemini", "s", '[{"speaker":"A","text":"a","Text":"b","content":"c","start":1,"end":2}]')
    assert turns(rows) == [("A", "c", 1, 2)]
    assert said == ('second fields for one thing (2): "text": "a" | "Text": "b"',)
    same = '[{"spk":0,"text":"a","sentence":"a","start":1,"end":2}]'
    assert parse_output("funasr", "s", f'{{"sentence_info": {same}}}')[1] == ()


def test_a_time_of_hundreds_of_digits_is_no_time():
    long = "9" * 400
    rows, _ = parse_output("moss", "s", f"[{long}][S01]hi[1][S02]you[2]")
    assert turns(rows) == [(None, f"[{long}][S01]hi", None, None), ("S02", "you", 1, 2)]
    rows, _ = parse_output("tagspeech", "s", f'<text>0-{long}>HI</text><speaker><spk id="1" t="0-{long}"/></speaker>')
    assert turns(rows) == [(None, f"0-{long}>HI", None, None)]
    reading = Reading("s")
    reading.turn("A", "hi", math.inf, math.nan)
    assert [(turns(rows), said) for rows, said in [reading.result()]] == [
        ([("A", "hi", None, None)], ("times that are not finite (2): inf | nan",))
    ]


def test_moss_keeps_a_bracket_that_would_end_a_turn_before_it_began():
    rows, said = parse_output("moss", "s", "[5.0][S01]page [3.2] is[6.5]loose[7][S02]to be continued")
    assert turns(rows) == [
        ("S01", "page [3.2] is", 5, 6.5),
        (None, "loose", None, None),
        ("S02", "to be continued", 7, None),
    ]
    assert said == ("pieces that do not parse (1): loose", "cut off before its end")


def test_tagspeech_keeps_gender_and_salvages_cut_xml():
    rows, _ = parse_output("tagspeech", "s", TAGSPEECH)
    assert [r.gender for r in rows] == ["female", None, "female"]
    cut = TAGSPEECH[: TAGSPEECH.index(",3.14") + 3]
    rows, said = parse_output("tagspeech", "s", cut)
    assert turns(rows)[0] == ("1", "HELLO THERE", 0, 1.21)
    assert [r.text for r in rows] == ["HELLO THERE", "好的", "AGAIN"]
    assert "cut off before its end" in said
    two, said = parse_output(
        "tagspeech",
        "s",
        '<text>0-1>a\n0-1>b</text><speaker><spk id="1" g="m" t="0-1,2-3"/><spk id="2" g="f" t="0-1"/></speaker>',
    )
    assert turns(two) == [("1", "a", 0, 1), ("2", "b", 0, 1), ("1", "", 2, 3)]
    assert said == ("times of a speaker without words (1): 1 2-3",)


@pytest.mark.parametrize(
    "text",
    [
        "**Speaker 1** (00:12): Hi\nthere\n**Speaker 2** (01:15): Yo",
        "Sure:\n**Speaker 1 (00:12):** Hi\nthere\n\n**Speaker 2 (01:15):** Yo",
        "[00:12] Speaker 1: Hi\nthere\n[01:15] **Speaker 2:** Yo",
        "Speaker 1 [00:12]: Hi\nthere\nSpeaker 2 [01:15]: Yo",
    ],
)
def test_gemini_lines(text: str):
    rows, said = parse_output("gemini", "s", text)
    spoken = [r for r in rows if r.speaker]
    assert [(r.speaker, r.text.split(), r.start, r.end) for r in spoken] == [
        ("Speaker 1", ["Hi", "there"], 12, 75), ("Speaker 2", ["Yo"], 75, 75),
    ]  # fmt: skip
    assert [r.text for r in rows if not r.speaker] == (["Sure:"] if "Sure" in text else [])
    assert said[-1].startswith("starts only")


@pytest.mark.parametrize(
    "line", ["SPEAKER rec 0 0.5 1.0 <NA> <NA> 3 <NA> <NA>", "SPEAKER rec 1 0.5 1.0 <NA> <NA> 3 <NA> <NA>"]
)
def test_rttm_of_3d_speaker_and_of_diarizen(tmp_path: Path, line: str):
    (path := tmp_path / "x.rttm").write_text(line + "\n")
    assert read(path) == [SegLstRow("rec", "3", "", 0.5, 1.5)]


def test_the_scorer_shows_what_did_not_parse(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    (tmp_path / "a.stm").write_text("a 1 X 0 2.5 Hi.\n")
    (tmp_path / "a.json").write_text('[{"Start":0,"End":2.5,"Speaker":0,"Content":"Hi."}, {"odd": 1}]')
    assert main([str(tmp_path / "a.stm"), str(tmp_path / "a.json"), "--out", str(tmp_path / "out")]) == 0
    assert "the text of 1 sessions is not in the expected form" in capsys.readouterr().err
    assert "pieces that do not parse (1)" in (tmp_path / "out" / "report.html").read_text(encoding="utf-8")


# ---------------------------------------------------------------------------------------------------------------- fuzz

MARKERS = "ЖЩЮ你好"  # letters that no format uses
# The examples without fields that say nothing of a turn: their values are not kept.
BARE = {
    "openai-diarized": '{"segments": [{"start": 0.5, "end": 1, "text": "Hi", "speaker": "A"}, {"text": "x"}]}',
    "whisperx": '{"segments": [{"start": 0, "end": 1.5, "text": "Hi", "speaker": "SPEAKER_00"}, {"text": "x"}]}',
    "pyannote": '{"diarization": [{"start": 0.1, "end": 2.0, "speaker": "A"}, {"start": 1, "end": 3, "speaker": "B"}]}',
    "funasr": '[{"sentence_info": [{"text": "x", "start": 480, "end": 1660, "spk": 0}, {"text": "y", "start": 5}]}]',
}


def heard(rows, said) -> Counter[str]:
    """Count the marker letters of rows and notes."""
    text = "".join([*(r.text + (r.speaker or "") for r in rows)])
    in_rows, in_notes = Counter(c for c in text if c in MARKERS), Counter(c for c in "".join(said) if c in MARKERS)
    return in_rows + in_notes


@pytest.mark.parametrize("kind", EXAMPLES)
@settings(deadline=None, max_examples=150)
@given(data=st.data())
def test_no_exception_and_no_letter_lost(kind: str, data: st.DataObject):
    text = BARE.get(kind, EXAMPLES[kind][0])
    for _ in range(data.draw(st.integers(0, 4))):
        at = data.draw(st.integers(0, len(text)))
        piece = data.draw(st.text(MARKERS + '"[]{}<>:,.\\-\n 0123S', max_size=5) | st.text(max_size=3))
        cut = data.draw(st.integers(0, 3))
        text = text[:at] + piece + text[at + cut :]
    text = text[: data.draw(st.integers(0, len(text)))]
    rows, said = parse_output(kind, "s", text)
    given_letters = Counter(c for c in text if c in MARKERS)
    if kind != "speaker-reasoner":  # its summary is no speech: tests of reasoner_text
        assert not given_letters - heard(rows, said), (text, rows, said)
    assert all(r.end is None or r.start is None or r.end >= r.start for r in rows)
    json.dumps([r.text for r in rows], ensure_ascii=False).encode()


@pytest.mark.parametrize(
    "tag",
    ['<spk id="1" t="0-1" g="Ж', '<spk:Ж id="1" t="0-1"', '<spk id="Ж" id="1" t="0-1">', '<spk id="1" Ж t="0-1">'],
)
def test_what_a_tag_should_not_hold_is_noted(tag: str):
    rows, said = parse_output("tagspeech", "s", f"<text>\n0-1>HI\n</text>\n<speaker>\n{tag}")
    assert rows
    assert any(note.startswith("tags that do not parse") and "Ж" in note for note in said)


@pytest.mark.parametrize("kind", EXAMPLES)
@settings(deadline=None, max_examples=60)
@given(text=st.text() | st.text('[]{}"<>:/,.-0123S\n spkt=ё'))
def test_any_text_is_kept(kind: str, text: str):
    rows, said = parse_output(kind, "s", text)
    whole = "".join(r.text + (r.speaker or "") for r in rows) + "".join(said)
    if kind != "speaker-reasoner":
        assert all(c in whole for c in text if c.isalpha() and c not in "spkteaxljon" and c.isprintable())


NONSENSE = (
    "[" * 50_000, "{" * 50_000, '{"a":' * 10_000, '[{"Content":"x' + "\\" * 9999, "[0.1]" * 10_000, "<spk " * 10_000,
    "1:" * 20_000, "[00:01.0 -->" * 9000, "*" * 20_000, " " * 20_000, "\n" * 20_000, f"male{' ' * 20_000}x",
    f"[0{' ' * 20_000}x", f"<{' ' * 20_000}x", f"```{' ' * 20_000}x", '[{"Content":"x' + '\\"' * 10_000,
    '{' + '"a":1,' * 20_000 + '}',
)  # fmt: skip


@pytest.mark.parametrize("text", NONSENSE, ids=lambda text: repr(text[:6]))
@pytest.mark.parametrize("kind", EXAMPLES)
def test_long_nonsense_does_not_hang(kind: str, text: str):
    rows, said = parse_output(kind, "s", text)
    assert rows or said or not text.strip("[ \n")  # brackets alone are syntax
