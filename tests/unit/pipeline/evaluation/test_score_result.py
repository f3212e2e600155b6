"""One result for the terminal and all files: collar, comparison, warnings, names of figures."""

from __future__ import annotations

import csv
import json
import re
from pathlib import Path

import pytest

from pipeline.evaluation.cli import main

WORDS = ["the", "customer", "wants", "it", "in", "blue", "and", "not", "in", "red"]


def stm(path: Path, shift: float = 0.0, dropped: int = 0, recordings: int = 4) -> str:
    """Write recordings of two speakers in English; ``dropped`` words are missing from each."""
    lines = []
    for i in range(recordings):
        for who, start in (("A", 0.0), ("B", 5.0)):
            words = WORDS[dropped if who == "A" else 0 :]
            lines.append(f"m{i} 1 {who} {start + shift} {start + 4 + shift} {' '.join(words)}\n")
    path.write_text("".join(lines))
    return str(path)


@pytest.fixture
def compared(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> tuple[str, str, Path]:
    """Standard output, standard error and files of a comparison with a collar."""
    ref, a, b = stm(tmp_path / "r.stm"), stm(tmp_path / "a.stm", 0.3, 3), stm(tmp_path / "b.stm", 0.3, 1)
    out = tmp_path / "out"
    assert main([ref, a, b, "--collar", "0.25", "--orc", "--out", str(out)]) == 0
    found = capsys.readouterr()
    return found.out, found.err, out


def test_files_have_the_error_with_the_collar_that_is_printed(compared):
    printed, _, out = compared
    rates = re.findall(r"DER: ([\d.]+) % of [\d.]+ s \(collar 0.25 s, overlap scored\)", printed)
    assert len(rates) == 2
    names = json.loads((out / "names.json").read_text(encoding="utf-8"))
    assert [f"{row['DER']:.2f}" for row in names] == rates
    for page in ("tables.md", "report.html"):
        text = (out / page).read_text(encoding="utf-8")
        assert "collar 0.25 s on each side" in text
        assert "without collar" not in text
        assert rates[0] in text


def test_files_have_the_comparison_that_is_printed(compared):
    printed, _, out = compared
    table = json.loads((out / "comparison.json").read_text(encoding="utf-8"))
    assert [row["B − A, points"] for row in table] == ["WER", "cpWER", "saWER"]
    assert table[0]["difference"] == pytest.approx(-100 * 2 / 20)
    assert (table[0]["p"], table[0]["test"], table[0]["recordings"]) == (0.125, "exact", 4)
    line = re.search(r"\| WER +\| +-10.00 \| .*\| 0.125 \| +exact \| +4 \|", printed)
    assert line, printed
    assert line[0] in (out / "tables.md").read_text(encoding="utf-8")
    page = (out / "report.html").read_text(encoding="utf-8")
    assert "Compare two rows" in page
    assert "-10.00" in page
    rows = list(csv.DictReader((out / "comparison.csv").open(encoding="utf-8")))
    assert float(rows[0]["difference"]) == pytest.approx(-10)


def test_kinds_of_errors_are_in_files_as_printed(compared):
    printed, _, out = compared
    rows = json.loads((out / "errors.json").read_text(encoding="utf-8"))
    assert [(r["system"], r["rate"], r["deletions"]) for r in rows if r["rate"] == "ORC-WER"] == [
        ("a", "ORC-WER", 12), ("b", "ORC-WER", 4)
    ]  # fmt: skip
    assert re.search(r"\| a +\| ORC-WER +\| 15.00 \| +0 \| +12 \|", printed)


def test_few_recordings_are_said_everywhere(compared):
    _, warned, out = compared
    few = "only 4 recordings: intervals over so few are too narrow, and no p can be below 0.125"
    assert few in warned
    for page in ("tables.md", "report.html"):
        assert few in (out / page).read_text(encoding="utf-8")


def test_english_is_scored_by_words_and_named_so(compared):
    printed, warned, out = compared
    (row, _) = json.loads((out / "scores.json").read_text(encoding="utf-8"))
    assert row["normaliser"].startswith("en-v")
    assert row["n_ref"] == 4 * 2 * len(WORDS)
    assert "CER" not in printed
    assert "counts characters" not in warned
    page = re.sub(r"<style>.*?</style>", "", (out / "report.html").read_text(encoding="utf-8"), flags=re.S)
    assert "cpWER" in page
    assert "CER" not in page
    head = (out / "results.csv").read_text(encoding="utf-8").partition("\n")[0].split(",")
    assert {"WER", "cpWER", "saWER"} <= set(head)


def test_a_normaliser_that_does_not_fit_is_kept_and_warned_of(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    ref = stm(tmp_path / "r.stm", recordings=12)
    assert main([ref, ref, "--normaliser", "paper-zh"]) == 0
    found = capsys.readouterr()
    assert "normaliser paper-zh counts characters, but 100 % of the reference are words" in found.err
    assert "recordings" not in found.err
    assert "normaliser paper-zh-v" in found.out
    assert main([ref, ref, "--language", "fr"]) == 0
    assert "normaliser mixed-v" in capsys.readouterr().out


def test_one_recording_has_no_comparison_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    one = stm(tmp_path / "r.stm", recordings=1)
    assert main([one, one, one, "--out", str(tmp_path / "out")]) == 0
    assert "no comparison: it needs at least two recordings" in capsys.readouterr().err
    assert not (tmp_path / "out" / "comparison.json").exists()


def test_decoded_clips_follow_their_script_and_empty_answers_are_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    folders = []
    for name, text in (("english", " ".join(WORDS)), ("chinese", "顾客想要蓝色的那一个")):
        folder = tmp_path / name
        folder.mkdir()
        turns = [{"speaker": "spk0", "start": 0, "end": 1, "text": text}]
        rows = [
            {"key": f"k{i}", "mode": "no", "names": [], "raw": "" if i == 1 else f"spk0: {text}", "reference": turns}
            for i in range(3)
        ]
        (folder / "no.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
        (folder / "decode.json").write_text(json.dumps({"about": {"run": name, "test_set": name}}))
        folders.append(str(folder))
    assert main(["decoded", *folders, "--out", str(tmp_path / "out")]) == 0
    found = capsys.readouterr()
    assert found.err.count("1 of 3 sessions hold no words and count as deleted: k1") == 2
    rows = json.loads((tmp_path / "out" / "scores.json").read_text(encoding="utf-8"))
    assert [r["normaliser"].partition("-v")[0] for r in rows] == ["en", "paper-zh"]
    page = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    assert {"WER", "cpWER", "CER", "cpCER"} <= set(re.findall(r"<th[^>]*>(\w+)</th>", page))
    assert main(["decoded", folders[0], "--out", str(tmp_path / "zh"), "--normaliser", "paper-zh"]) == 0
    assert "normaliser paper-zh counts characters" in capsys.readouterr().err
