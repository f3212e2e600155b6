"""A transcript format of another package: found by name and by suffix, read, written, and refused with a reason."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.evaluation.cli import main
from pipeline.evaluation.formats import detect, dumps, read, readable, writable
from pipeline.evaluation.records import SegLstRow
from shards.errors import ConfigError, ScoreError
from tests.support.plugins import add_distribution

CTM = """
from pipeline.evaluation.files import numbered_lines
from pipeline.evaluation.records import SegLstRow

READS, WRITES = (".ctm",), ".ctm"


def read(path):
    rows = []
    for _, line in numbered_lines(path):
        session, speaker, start, length, word = line.split()
        rows.append(SegLstRow(session, speaker, word, float(start), float(start) + float(length)))
    return rows


def dumps(rows):
    return "".join(f"{r.session} {r.speaker} {r.start} {r.end - r.start} {r.text}\\n" for r in rows)
"""


@pytest.fixture
def ctm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    add_distribution(monkeypatch, tmp_path / "site", "speakerlm.formats", "ctm", "outside_ctm", CTM)


@pytest.mark.usefixtures("ctm")
def test_format_of_another_package_is_read_by_suffix_and_by_name(tmp_path: Path):
    path = tmp_path / "x.ctm"
    path.write_text("m1 A 0.5 1.0 hello\n", encoding="utf-8")
    rows = [SegLstRow("m1", "A", "hello", 0.5, 1.5)]
    assert detect(path) == "ctm"
    assert read(path) == read(tmp_path, "ctm") == rows
    assert dumps(rows, "ctm") == "m1 A 0.5 1.0 hello\n"
    assert "ctm" in readable()
    assert "ctm" in writable()


@pytest.mark.usefixtures("ctm")
def test_format_of_another_package_is_scored_and_converted(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    (tmp_path / "x.ctm").write_text("m1 A 0.5 1.0 hello\n", encoding="utf-8")
    (tmp_path / "x.stm").write_text("m1 1 A 0.5 1.5 hello\n", encoding="utf-8")
    assert main([str(tmp_path / "x.stm"), str(tmp_path / "x.ctm")]) == 0
    assert "| WER " in capsys.readouterr().out
    assert main(["convert", str(tmp_path / "x.stm"), str(tmp_path / "out"), "--to", "ctm"]) == 0
    assert (tmp_path / "out" / "m1.ctm").read_text(encoding="utf-8") == "m1 A 0.5 1.0 hello\n"


def test_without_the_package_the_format_is_unknown(tmp_path: Path):
    path = tmp_path / "x.ctm"
    path.write_text("m1 A 0.5 1.0 hello\n", encoding="utf-8")
    with pytest.raises(ScoreError, match="unknown format"):
        read(path)


def test_format_that_cannot_be_imported_is_reported_when_it_is_needed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    add_distribution(monkeypatch, tmp_path / "site", "speakerlm.formats", "ctm", "outside_bad_format", "import nowhere")
    (tmp_path / "x.stm").write_text("m1 1 A 0.5 1.5 hello\n", encoding="utf-8")
    assert detect(tmp_path / "x.stm") == "stm"
    (tmp_path / "x.ctm").write_text("", encoding="utf-8")
    with pytest.raises(ConfigError, match=r"speakerlm\.formats cannot be loaded"):
        read(tmp_path / "x.ctm")
    with pytest.raises(ScoreError, match="unknown format 'x' to write; known: json, rttm"):
        dumps([], "x")
    (tmp_path / "folder").mkdir()
    (tmp_path / "x.stm").rename(tmp_path / "folder" / "x.stm")
    (tmp_path / "folder" / "README").write_text("", encoding="utf-8")
    assert len(read(tmp_path / "folder")) == 1
    assert "speakerlm.formats cannot be loaded" in caplog.text
