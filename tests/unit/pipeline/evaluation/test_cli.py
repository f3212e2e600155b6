"""The command: what it prints, what it refuses, what it does not import."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.evaluation.cli import main
from tests.support.pages import checked_page

STM = "m1 1 A 0 2 今天下午开会\nm1 1 B 1.5 4 好的没有问题\nm2 1 A 0 2 你好\nm3 1 B 0 1 再见\n"


def put(path: Path, text: str) -> str:
    path.write_text(text, encoding="utf-8")
    return str(path)


@pytest.fixture
def ref(tmp_path: Path) -> str:
    return put(tmp_path / "ref.stm", STM)


@pytest.fixture
def hyp(tmp_path: Path) -> str:
    return put(tmp_path / "hyp.stm", STM.replace("下午", "下").replace("m2 1 A", "m2 1 B"))


def test_figures_and_files(ref: str, hyp: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    assert main([ref, hyp, "--orc", "--per-session", "--out", str(tmp_path / "out"), "--test-set", "AliMeeting"]) == 0
    printed = capsys.readouterr().out
    (row,) = json.loads((tmp_path / "out" / "scores.json").read_text(encoding="utf-8"))
    assert (row["cer"], row["cpcer"], row["sacer"]) == pytest.approx((100 / 16, 100 / 16, 500 / 16))
    assert row["n_ref"] == 16
    assert "ORC-CER" in printed
    assert "DER:" in printed
    sessions = (tmp_path / "out" / "sessions.tsv").read_text(encoding="utf-8").splitlines()
    assert sessions[1] == "hyp\tm1\tcer\t0\t1\t0\t12"
    assert {p.name for p in (tmp_path / "out").iterdir()} >= {"scores.json", "sessions.tsv", "report.html", "tables.md"}


def test_two_systems_are_compared(ref: str, hyp: str, capsys: pytest.CaptureFixture[str]):
    assert main([ref, ref, hyp]) == 0
    assert "B − A, points" in capsys.readouterr().out


@pytest.mark.parametrize(("options", "players"), [((), 6), (("--embed", "1"), 2), (("--embed", "0"), 0)])
def test_audio_of_the_worst_sessions_is_embedded(ref: str, hyp: str, tmp_path: Path, options, players: int):
    (tmp_path / "sound").mkdir()
    for session in ("m1", "m2", "m3"):
        (tmp_path / "sound" / f"{session}.flac").write_bytes(b"fLaC")
    assert main([ref, hyp, ref, "--out", str(tmp_path / "out"), "--audio", str(tmp_path / "sound"), *options]) == 0
    page = checked_page((tmp_path / "out" / "report.html").read_text(encoding="utf-8"))
    assert len(page.having("audio")) == players
    assert sum("plays" in x["class"].split() for x in page.having(cls="timeline")) == players


def test_registered_names_of_json_lines_are_counted(ref: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    rows = [
        {"key": "m1", "names": ["A", "B", "C"], "raw": "A: 今天下午开会\nC: 好的\nspk1: 没有\nB 问题"},
        {"key": "m2", "names": ["A", "B"], "raw": "A: 你好"},
        {"key": "m3", "names": ["B"], "raw": "B: 再\nZ: 见"},
    ]
    hyp = put(tmp_path / "x.jsonl", "\n".join(map(json.dumps, rows)))
    assert main([ref, hyp, "--out", str(tmp_path / "out")]) == 0
    found = capsys.readouterr()
    shares = "absent names 14.29 %, spkN 14.29 %, unknown names 14.29 %, no speaker 0.00 %"
    assert f"of 7 hypothesis turns: {shares}" in found.out
    assert "the text of 2 sessions is not in the expected form" in found.err
    page = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    assert "turn 4: missing colon" in page
    assert "turn 2: unknown name" in page


def test_a_folder_of_json_lines_equals_its_files(ref: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    rows = [
        {"key": "m1", "names": ["A", "B", "C"], "raw": "A: 今天下午开会\nC: 好的\nspk1: 没有\nB 问题"},
        {"key": "m2", "names": ["A", "B"], "raw": "A: 你好"},
        {"key": "m3", "names": ["B"], "raw": "B: 再\nZ: 见"},
    ]
    whole = put(tmp_path / "x.jsonl", "\n".join(map(json.dumps, rows)))
    (tmp_path / "folder").mkdir()
    for i, row in enumerate(rows):
        put(tmp_path / "folder" / f"{i}.jsonl", json.dumps(row))
    printed = []
    for hyp in (whole, str(tmp_path / "folder")):
        assert main([ref, hyp, "--system", "x"]) == 0
        printed.append(capsys.readouterr().out)
    assert "absent names 14.29 %" in printed[0]
    assert printed[0] == printed[1]


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        (
            "x.json",
            '[{"session_id": "m1", "words": ""}, {"session_id": "m2", "words": "你好"}]',
            "1 of 2 .* no words and count as deleted: m1",
        ),
        ("x.json", '[{"session_id": "m1"}, {"session_id": "m2"}]', "2 of 2 .* no words and count as deleted: m1, m2"),
        ("m1.txt", "A:\n", "1 of 1 .* no words and count as deleted: m1"),
        ("m1.txt", "", "the hypothesis holds no segment"),
        ("m1.txt", "A: …… 。", "1 of 1 .* no words and count as deleted: m1"),
    ],
)
def test_an_empty_hypothesis_is_always_said(name, text, message, ref, tmp_path, capsys):
    assert main([ref, put(tmp_path / name, text)]) == 0
    assert re.search(message, capsys.readouterr().err)


def test_one_recording_is_scored_but_not_compared(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    one = put(tmp_path / "one.stm", STM.split("m2", maxsplit=1)[0])
    assert main([one, one, one, "--out", str(tmp_path / "out")]) == 0
    assert "needs at least two recordings" in capsys.readouterr().err
    assert (tmp_path / "out" / "report.html").exists()


@pytest.mark.parametrize("option", [["--replicates", "-1"], ["--collar", "-1"], ["--collar", "nan"]])
def test_numbers_below_zero_are_refused(option: list[str], ref: str, capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit):
        main([ref, ref, *option])
    assert option[1] in capsys.readouterr().err


def test_scores_do_not_depend_on_the_format(ref: str, hyp: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    assert main(["convert", hyp, str(tmp_path / "seglst"), "--to", "seglst"]) == 0
    assert main(["convert", hyp, str(tmp_path / "tsv"), "--to", "tsv"]) == 0
    capsys.readouterr()
    main([ref, hyp, "--system", "x"])
    first = capsys.readouterr().out
    main([ref, str(tmp_path / "seglst"), "--system", "x"])
    assert capsys.readouterr().out == first


def test_rttm_gives_der_only(ref: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    main(["convert", ref, str(tmp_path / "rttm"), "--to", "rttm"])
    capsys.readouterr()
    assert main([ref, str(tmp_path / "rttm")]) == 0
    found = capsys.readouterr()
    assert "DER: 0.00 %" in found.out
    assert "speaker count right: 100.00 %" in found.out
    assert "CER" not in found.out
    assert "no words" in found.err


def test_der_is_written_where_one_side_has_no_words(ref: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    late = put(tmp_path / "late.stm", STM.replace("m2 1 A 0 2", "m2 1 A 0.5 2"))
    for name, source in (("a", ref), ("b", late)):
        main(["convert", source, str(tmp_path / name / "hyp"), "--to", "rttm"])
    both = [str(tmp_path / name / "hyp") for name in "ab"]
    capsys.readouterr()
    assert main([ref, *both, "--out", str(tmp_path / "out")]) == 0
    first, second = json.loads((tmp_path / "out" / "speakers.json").read_text())
    assert (first["system"], second["system"]) == ("a/hyp", "b/hyp")
    assert (first["der"]["percent"], first["count_accuracy"], first["sessions"]) == (0, 100, 3)
    assert second["der"]["percent"] == pytest.approx(100 * 0.5 / 7.5)
    assert second["seconds_of_sessions"]["m2"]["missed"] == pytest.approx(0.5)
    assert sum(s["reference"] for s in second["seconds_of_sessions"].values()) == pytest.approx(7.5)


def test_systems_of_one_file_name_are_named_by_folder(ref: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    for name in "ab":
        (tmp_path / name).mkdir()
        put(tmp_path / name / "hyp.stm", STM)
    assert main([ref, str(tmp_path / "a" / "hyp.stm"), str(tmp_path / "b" / "hyp.stm")]) == 0
    printed = capsys.readouterr().out
    assert "a/hyp" in printed
    assert "b/hyp" in printed


def test_names_decide_whether_there_is_sacer(ref: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    generic = put(tmp_path / "g.stm", STM.replace(" A ", " spk0 ").replace(" B ", " spk1 "))
    main([ref, generic])
    assert "saCER |" not in capsys.readouterr().out.split("\n\n", 2)[1]
    main([ref, generic, "--by-name", "yes"])
    assert "| saCER | 200.00" in capsys.readouterr().out.replace("  ", " ")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere.stm", "nowhere.stm"], "does not exist"),
        (["{ref}", "{other}"], "another set"),
        (["{ref}", "{ref}", "--normaliser", "x"], "unknown normaliser"),
        (["{ref}", "{ref}", "--group", "("], "not a regular expression"),
        (["decoded", "{tmp}", "--out", "{tmp}/out"], "speakerlm-decode first"),
        (["convert", "{ref}", "{tmp}/o", "--to", "ass"], "srt, stm, tsv, vtt"),
        (["{ref}", "{ref}", "--out", "{ref}"], "File exists"),
        (["{ref}", "{ref}", "--out", "{tmp}/o", "--audio", "{tmp}/nowhere"], "nowhere: no such folder"),
        (["decoded", "{tmp}", "--out", "{tmp}/out", "--runs", "{tmp}"], "no train.jsonl in"),
    ],
)
def test_user_errors_are_one_line_and_exit_1(arguments, message, ref, tmp_path, capsys):
    other = put(tmp_path / "other.stm", "z9 1 A 0 2 x\n")
    filled = [a.format(ref=ref, other=other, tmp=tmp_path) for a in arguments]
    assert main(filled) == 1
    found = capsys.readouterr()
    assert message in found.err
    assert found.err.startswith("speakerlm-score: ")
    assert found.err.count("\n") == 1


def test_sessions_on_one_side_only_are_reported(ref: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    part = put(tmp_path / "part.stm", "m1 1 A 0 2 今天下午开会\nz9 1 A 0 2 你好\n")
    assert main([ref, part]) == 0
    err = capsys.readouterr().err
    assert "2 of 3 sessions have no hypothesis" in err
    assert "1 hypothesis sessions have no reference" in err


@pytest.mark.parametrize("arguments", [["--help"], ["decoded", "--help"], ["convert", "--help"]])
def test_help_imports_nothing_heavy(arguments: list[str]):
    """What makes --help slow is imports, so they are what is checked: none of these may be there."""
    code = (
        "import sys; from pipeline.evaluation.cli import main\n"
        "try: main(sys.argv[1:])\n"
        "except SystemExit: pass\n"
        "heavy = {'torch', 'numpy', 'scipy', 'meeteval', 'matplotlib', 'pyarrow', 'omegaconf', 'pyannote'}\n"
        "print('HEAVY', sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=True)
    assert "HEAVY []" in done.stdout


def test_scoring_imports_no_torch(ref: str, hyp: str, tmp_path: Path):
    code = (
        "import sys; from pipeline.evaluation.cli import main\n"
        "assert main(sys.argv[1:]) == 0\n"
        "print('TORCH', [m for m in ('torch', 'transformers', 'deepspeed', 'funasr') if m in sys.modules])"
    )
    arguments = [ref, hyp, "--orc", "--out", str(tmp_path / "out")]
    done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=True)
    assert "TORCH []" in done.stdout
