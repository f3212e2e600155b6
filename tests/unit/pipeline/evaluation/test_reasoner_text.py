"""The format speaker-reasoner: dialogues, cut answers, genders; found by name and content, shown with notes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pipeline.evaluation.cli import main
from pipeline.evaluation.decoded_rows import decoded_session
from pipeline.evaluation.formats import detect, notes, read
from pipeline.evaluation.metrics import load_metrics
from pipeline.evaluation.normalize import profile
from pipeline.evaluation.reasoner_text import reasoner_rows
from pipeline.evaluation.records import SegLstRow, SessionTranscript
from pipeline.evaluation.session_scores import score_session, total
from pipeline.evaluation.speaker_metrics import score_speakers
from shards.errors import ScoreError

FIRST = "<think>共2位说话人。</think><box>[0.0, 2.5]</box>"
LOOK = "<think>\nMale 1 [0.0, 1.08]: 哈哈。\nFemale 2 [0.9, 2.5]: 你好\n</think><box>[3.0, 4.0]</box>"
LAST = "<think>\nMale 1 [3.0, 4.0]: 再见\n</think>"
ANSWER = "<answer>\nMale 1 [0.0, 1.08]: 哈哈。\nFemale 2 [0.9, 2.5]: 你好\nMale 1 [3.0, 4.0]: 再见\n</answer>"
ROWS = [
    SegLstRow("a", "Male 1", "哈哈。", 0.0, 1.08, "male"),
    SegLstRow("a", "Female 2", "你好", 0.9, 2.5, "female"),
    SegLstRow("a", "Male 1", "再见", 3.0, 4.0, "male"),
]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (ANSWER, ()),
        (FIRST + LOOK + LAST + ANSWER, ()),
        (FIRST + LOOK + LAST, ("no <answer>: the lines are those of the observations",)),
        (
            FIRST + LOOK + LAST + ANSWER[: ANSWER.index("Male 1 [3")],
            ("<answer> is not closed", "lines of observations continue a cut answer"),
        ),
        (ANSWER.replace("[", "【").replace("3.0,", "0:03，"), ()),
    ],
)
def test_a_dialogue_gives_its_answer_else_its_observations(text: str, said: tuple[str, ...]):
    assert reasoner_rows("a", text) == (tuple(ROWS), said)


def test_no_word_of_an_answer_is_lost():
    rows, said = reasoner_rows("a", "<answer>嗯\nMale 1 [2.0, 1.0]: 好\nFemale 1 [3.0, 4.0]: 再见</answer>")
    assert rows == (
        SegLstRow("a", "Male 1", "好", 2.0, 2.0, "male"),
        SegLstRow("a", "Male 1", "再见", 3.0, 4.0, "female"),
        SegLstRow("a", None, "嗯"),
    )
    assert said == (
        "text of the answer without a label is left to no speaker: 嗯",
        "Male 1 ends at 1.0, before its start 2.0",
        "Male 1 is Female 1 too",
    )
    assert reasoner_rows("a", "") == ((), ())


def test_files_are_read_by_name_and_by_content(tmp_path: Path):
    (tmp_path / "a.txt").write_text(ANSWER[:-9], encoding="utf-8")
    lines = [{"key": "b", "text": ANSWER}, {"session_id": "a", "raw": [FIRST, LOOK, LAST + ANSWER]}]
    (tmp_path / "b.jsonl").write_text("".join(json.dumps(x) + "\n" for x in lines), encoding="utf-8")
    assert {detect(tmp_path / "a.txt"), detect(tmp_path / "b.jsonl")} == {"speaker-reasoner"}
    assert read(tmp_path / "a.txt", "speaker-reasoner") == ROWS
    assert notes(tmp_path / "a.txt", "speaker-reasoner") == {"a": ("<answer> is not closed",)}
    assert [r for r in read(tmp_path / "b.jsonl", "speaker-reasoner") if r.session == "a"] == ROWS
    (tmp_path / "c.jsonl").write_text('{"key": "c", "raw": [1]}\n', encoding="utf-8")
    with pytest.raises(ScoreError, match=r"c\.jsonl:1: no text"):
        read(tmp_path / "c.jsonl", "speaker-reasoner")


def test_one_odd_line_does_not_take_the_figures_of_times():
    rows, _ = reasoner_rows("a", "<answer>嗯\nMale 1 [2.0, 1.0]: 好\nMale 1 [3.0, 4.0]: 再见</answer>")
    reference = (SegLstRow("a", "x", "好", 2.0, 3.0), SegLstRow("a", "x", "再见", 3.0, 4.0))
    session = SessionTranscript("a", reference, rows)
    assert score_speakers([session]).der.percent == 50.0
    metrics = load_metrics(["tcp-cer", "boundary-error", "jer"])
    found = {
        name: rate.figure for name, rate in score_session(session, profile("none"), metrics=metrics).metrics.items()
    }
    assert found == pytest.approx({"tcp-cer": 100 / 3, "boundary-error, s": 0.0, "jer": 50.0})
    loose = SessionTranscript("b", reference, rows[-1:])
    assert (score_speakers([session, loose]).der, score_speakers([session, loose]).untimed) == (None, 1)


def test_decoded_rows_say_that_they_are_of_this_format():
    reference = [{"speaker": "spk0", "text": "哈哈", "start": 0, "end": 1, "gender": "M"}]
    row = {"key": "a", "raw": ANSWER, "format": "speaker-reasoner", "names": [], "reference": reference, "mode": "no"}
    session = decoded_session(row)
    assert session.hypothesis == tuple(ROWS)
    assert session.reference == (SegLstRow("a", "spk0", "哈哈", 0.0, 1.0, "male"),)


def test_output_of_a_reasoner_is_scored_with_its_times_and_genders(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    (tmp_path / "ref.stm").write_text(
        "a 1 x 0 1.08 <o,f0,male> 哈哈\na 1 y 0.9 2.5 <o,f0,male> 你好\na 1 x 3 4 <o,f0,male> 再见\n", encoding="utf-8"
    )
    (tmp_path / "a.txt").write_text(ANSWER[:-9], encoding="utf-8")
    out = tmp_path / "out"
    command = [str(tmp_path / "ref.stm"), str(tmp_path / "a.txt"), "--hyp-format", "speaker-reasoner"]
    assert main([*command, "--metric", "gender-accuracy", "--metric", "tcp-cer", "--out", str(out)]) == 0
    (row,) = json.loads((out / "scores.json").read_text(encoding="utf-8"))
    assert (row["cpcer"], row["metrics"]) == (0.0, {"gender-accuracy": 50.0, "tcp-cer": 0.0})
    printed = capsys.readouterr()
    assert "DER: 0.00 %" in printed.out
    assert "not in the expected form" in printed.err


def gender_accuracy(*sessions: tuple[list[SegLstRow], list[SegLstRow]]) -> float | None:
    metrics = load_metrics(["gender-accuracy"])
    made = [SessionTranscript(str(i), tuple(r), tuple(h)) for i, (r, h) in enumerate(sessions)]
    rate = total([score_session(s, profile("none"), metrics=metrics) for s in made]).metrics["gender-accuracy"]
    return rate and rate.figure


def test_gender_accuracy_is_over_the_speakers_that_were_found():
    reference = [
        SegLstRow("x", name, text, gender=gender)
        for name, text, gender in (
            ("A", "今天开会", "male"), ("B", "好的没问题", "female"), ("C", "再见了", "female"), ("D", "唔", None),
        )
    ]  # fmt: skip
    heard = [
        SegLstRow("x", "Male 1", "今天开会"),
        SegLstRow("x", "Male 2", "好的没问题"),
        SegLstRow("x", "Male 3", "唔"),
    ]
    assert gender_accuracy((reference, heard)) == 50.0
    named = [SegLstRow("x", "b", "今天开会", gender="male"), SegLstRow("x", "a", "好的没问题", gender="female")]
    assert gender_accuracy((reference, named)) == 100.0
    assert gender_accuracy((reference, [SegLstRow("x", "Speaker 1", "今天开会")])) == 0.0
    assert gender_accuracy((reference[3:], heard), (reference, [])) is None


def test_genders_survive_seglst_and_come_from_kaldi_folders(tmp_path: Path):
    from pipeline.evaluation.formats import write

    write(ROWS, tmp_path / "out", "seglst")
    assert read(tmp_path / "out") == ROWS
    folder = tmp_path / "kaldi"
    folder.mkdir()
    for name, text in (("text", "u1 hi\nu2 ho\n"), ("utt2spk", "u1 p\nu2 q\n"), ("spk2gender", "p f\n")):
        (folder / name).write_text(text, encoding="utf-8")
    assert [r.gender for r in read(folder)] == ["female", None]
