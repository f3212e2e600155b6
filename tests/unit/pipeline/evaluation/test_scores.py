"""From decoded clips to rows, and rows to a file and a table."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from pipeline.evaluation.decoded_folder import read_decoded
from pipeline.evaluation.decoded_rows import decoded_session
from pipeline.evaluation.score_decoded import publish
from pipeline.evaluation.scores import (
    KEYS,
    cell,
    format_table,
    score_decoded,
    write_scores,
)
from shards.errors import ScoreError


def clip(
    key="c1", mode="no", raw="spk0: 一二\nspk1: 三四", names=(), n_ov=None, speakers=("spk0", "spk1"), session="m1"
):
    reference = [
        {"speaker": speakers[0], "start": 0.0, "end": 1.0, "text": "一二"},
        {"speaker": speakers[1], "start": 1.0, "end": 2.0, "text": "三四"},
    ]
    return {
        "key": key, "session": session, "corpus": "toy", "split": "test", "mode": mode, "n_ov": n_ov,
        "names": list(names), "name_of": {}, "raw": raw, "reference": reference, "hypothesis": [],
    }  # fmt: skip


def put(folder: Path, name: str, clips) -> Path:
    folder.mkdir(exist_ok=True)
    path = folder / name
    path.write_text("".join(json.dumps(c, ensure_ascii=False) + "\n" for c in clips), encoding="utf-8")
    return path


def test_rows_of_all_modes(tmp_path: Path):
    ab = ("Ann", "Bob")
    put(tmp_path, "asr.jsonl", [clip(mode="asr", raw="一二三四", speakers=(None, None))])
    put(tmp_path, "no.jsonl", [clip(raw="spk0: 三四\nspk1: 一二")])
    put(tmp_path, "match.jsonl", [clip(mode="match", raw="Ann: 一二\nAnn: 三四", names=ab, speakers=ab)])
    put(tmp_path, "over.jsonl", [clip(mode="over", raw="Ann: 一二\nCy: 三四", names=(*ab, "Cy"), n_ov=1, speakers=ab)])
    rows = score_decoded(tmp_path, "run", 4, "toy", "test", replicates=0)
    assert [set(r) for r in rows] == [set(KEYS)] * 4
    figures = [(r["mode"], r["n_ov"], r["cer"], r["cpcer"], r["sacer"], r["delta_cp"], r["delta_sa"]) for r in rows]
    assert figures == [
        ("asr", None, 0, None, None, None, None),
        ("no", None, 100, 0, None, -100, None),
        ("match", None, 0, 100, 100, 100, 100),
        ("over", "1-1", 0, 0, 100, 0, 100),
    ]
    assert {(r["run"], r["stage"], r["test_set"], r["split"], r["unit"], r["n_ref"]) for r in rows} == {
        ("run", 4, "toy", "test", "clip", 4)
    }
    assert {r["normaliser"] for r in rows} == {"paper-zh-v2"}


def test_missing_labels_come_from_decode_json(tmp_path: Path):
    put(tmp_path, "no.jsonl", [clip()])
    (row,) = score_decoded(tmp_path)
    assert (row["run"], row["stage"], row["test_set"], row["split"]) == (tmp_path.name, None, "toy", "test")
    (tmp_path / "decode.json").write_text(json.dumps({"about": {"run": "r", "stage": 2, "test_set": "t"}}))
    (row,) = score_decoded(tmp_path)
    assert (row["run"], row["stage"], row["test_set"], row["split"]) == ("r", 2, "t", "test")


def test_sweep_has_one_row_per_range_in_order(tmp_path: Path):
    for low in (20, 1, 10):
        put(tmp_path, f"over-{low}-{low + 9}.jsonl", [clip(mode="over", names=("spk0", "spk1"), n_ov=low)])
    assert [r["n_ov"] for r in score_decoded(tmp_path)] == ["1-10", "10-19", "20-29"]


def test_intervals_are_by_recording(tmp_path: Path):
    good, bad = [clip(f"g{i}", session=f"m{i}") for i in range(5)], [clip("b", raw="spk0: 一", session="m9")]
    put(tmp_path, "no.jsonl", [*good, *bad])
    (row,) = score_decoded(tmp_path)
    assert row["ci"]["cer"][0] <= row["cer"] <= row["ci"]["cer"][1]
    put(tmp_path, "no.jsonl", good[:1])
    assert score_decoded(tmp_path)[0]["ci"] is None


def test_text_is_parsed_when_it_is_scored():
    session = decoded_session(clip(mode="match", raw="uh\nAnn 一二", names=("Ann", "Bob"), speakers=("Ann", "Bob")))
    assert [(s.speaker, s.text) for s in session.hypothesis] == [(None, "uh"), ("Ann", "一二")]
    assert session.notes == ("turn 1: no speaker", "turn 2: missing colon")
    assert session.names == ("Ann", "Bob")
    assert session.unit_group == "m1"


def test_scores_are_written_whole(tmp_path: Path):
    put(tmp_path / "d", "no.jsonl", [clip()])
    rows = score_decoded(tmp_path / "d")
    write_scores(rows, tmp_path / "new" / "scores.json")
    assert json.loads((tmp_path / "new" / "scores.json").read_text(encoding="utf-8")) == rows
    assert [p.name for p in (tmp_path / "new").iterdir()] == ["scores.json"]
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_scores([rows[0] | {"cer": math.nan}], tmp_path / "other" / "scores.json")
    assert not list((tmp_path / "other").iterdir())


def test_damaged_decoded_files_are_reported(tmp_path: Path):
    with pytest.raises(ScoreError, match="speakerlm-decode first"):
        score_decoded(tmp_path)
    path = put(tmp_path, "no.jsonl", [clip(), clip()])
    with pytest.raises(ScoreError, match=r"no\.jsonl:2: session c1 occurs twice"):
        read_decoded(path)
    path.write_text(json.dumps(clip()) + '\n{"key": "x", "mo')
    with pytest.raises(ScoreError, match=r"no\.jsonl:2: not JSON"):
        read_decoded(path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"mode": "every"}, "unknown mode 'every', known: asr"),
        ({"raw": None}, "no text under raw"),
        ({"reference": None}, "not a list of turns"),
        ({"names": 5}, "names must be"),
        ({"n_ov": "x"}, "not a number of speakers"),
    ],
)
def test_damaged_row_is_reported(tmp_path: Path, change: dict, message: str):
    put(tmp_path, "no.jsonl", [clip(), clip("c2") | change])
    with pytest.raises(ScoreError, match=rf"no\.jsonl:2: .*{message}"):
        score_decoded(tmp_path)


def test_a_file_holds_one_mode(tmp_path: Path):
    put(tmp_path, "no.jsonl", [clip(), clip("c2", mode="match")])
    with pytest.raises(ScoreError, match=r"no\.jsonl:2: mode match in a file of mode no"):
        score_decoded(tmp_path)


@pytest.mark.parametrize("text", ["[]", "{", '{"about": 5}'])
def test_damaged_description_is_reported(tmp_path: Path, text: str):
    put(tmp_path, "no.jsonl", [clip()])
    (tmp_path / "decode.json").write_text(text)
    with pytest.raises(ScoreError, match=r"decode\.json"):
        score_decoded(tmp_path)


def test_line_separators_inside_a_text_do_not_split_rows(tmp_path: Path):
    put(tmp_path, "no.jsonl", [clip(raw="spk0: 一\u2028二\u0085\nspk1: 三四")])
    assert score_decoded(tmp_path)[0]["cer"] == 0


def test_reversed_times_in_a_models_text_are_dropped():
    (turn,) = decoded_session(clip(raw="spk0 [3.0, 1.0]: 一")).hypothesis
    assert (turn.text, turn.start, turn.end) == ("一", None, None)


def test_undefined_figures_are_dashes_in_the_table():
    row = dict.fromkeys(KEYS) | {
        "run": "r",
        "mode": "no",
        "cer": 12.345,
        "delta_cp": -1.0,
        "n_ref": 10,
        "normaliser": "x-v1",
    }
    text = format_table([row | {"ci": {"cer": [10.0, 15.0]}}], intervals=True)
    assert "12.35 [10.00, 15.00]" in text or "12.34 [10.00, 15.00]" in text
    assert "-1.00" in text
    assert "–" in text
    assert "normaliser x-v1" in text
    assert len({len(line) for line in text.splitlines()[:3]}) == 1
    assert format_table([]).endswith("No scores.\n")
    assert (cell(None), cell(0.0), cell(3)) == ("–", "0.00", "3")


GEMINI = json.dumps({"segments": [
    {"speaker": "Speaker 1", "timestamp": "00:00", "content": "一二"},
    {"speaker": "Speaker 2", "timestamp": "00:01", "content": "三四"},
]})  # fmt: skip


def test_der_of_a_system_that_gives_starts_only_is_marked_in_its_columns(tmp_path: Path):
    put(tmp_path / "gemini", "no.jsonl", [clip(raw=GEMINI) | {"format": "gemini"}])
    put(tmp_path / "ours", "no.jsonl", [clip(raw="spk0 [0.0, 1.0]: 一二\nspk1 [1.0, 2.0]: 三四")])
    (tmp_path / "gemini" / "decode.json").write_text('{"about": {"run": "gemini", "test_set": "alimeeting"}}')
    (tmp_path / "ours" / "decode.json").write_text('{"about": {"run": "ours", "test_set": "alimeeting"}}')
    names = ["der", "jer", "tcp-cer"]
    rows = publish([tmp_path / "gemini", tmp_path / "ours"], tmp_path / "out", metrics=names)
    assert {k: cell(v) for k, v in rows[0]["metrics"].items()} == {
        "der": "50.00 coarse", "jer": "50.00 coarse", "tcp-cer": "0.00",
    }  # fmt: skip
    assert {k: cell(v) for k, v in rows[1]["metrics"].items()} == {"der": "0.00", "jer": "0.00", "tcp-cer": "0.00"}
    tables = (tmp_path / "out" / "tables.md").read_text(encoding="utf-8")
    # DER beside published rows, further metrics, names and speakers
    assert [line.count("50.00 coarse") for line in tables.split("\n") if "50.00 coarse" in line] == [1, 2, 1]
    assert "0.00 coarse" not in tables.replace("50.00 coarse", "")
    assert "50.00 coarse" in (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    stored = json.loads((tmp_path / "out" / "scores.json").read_text())
    assert [r.get("coarse") for r in stored] == [["der", "jer"], None]
    assert stored[0]["metrics"]["der"] == 50.0


def test_a_row_says_which_clips_it_lacks(tmp_path: Path, caplog):
    for name, keys in (("whole", "abcde"), ("part", "b")):
        put(tmp_path / name, "no.jsonl", [clip(key=k) for k in keys])
    rows = publish([tmp_path / "whole", tmp_path / "part"], tmp_path / "out")
    assert [r["missing"] for r in rows] == [[], ["a", "c", "d", "e"]]
    assert "4 of 5 clips are missing" in caplog.text
    (head, whole, part) = (tmp_path / "out" / "results.csv").read_text(encoding="utf-8").splitlines()[:3]
    at = head.split(",").index("missing")
    assert (whole.split(",")[at], '"4: a, c, d and 1 more"' in part) == ("", True)
    assert "4: a, c, d and 1 more" in (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    assert [r.get("missing") for r in json.loads((tmp_path / "out" / "scores.json").read_text())] == [
        None,
        rows[1]["missing"],
    ]
    publish([tmp_path / "whole"], tmp_path / "one")
    assert "missing" not in (tmp_path / "one" / "results.csv").read_text(encoding="utf-8")
