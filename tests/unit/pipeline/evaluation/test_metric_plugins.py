"""Metrics by name: one of the project, one of another package, in the output, scores.json, tables and report."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pipeline.evaluation.cli import main
from pipeline.evaluation.metrics import load_metrics
from pipeline.evaluation.normalize import profile
from pipeline.evaluation.session_scores import score_session, total
from shards.errors import ConfigError
from tests.support.plugins import add_distribution
from tests.support.scoring import random_session

STM = "m1 1 A 0 2 今天下午开会\nm1 1 B 1.5 4 好的\nm2 1 A 0 2 你好\n"
TURN_COUNT = """
def score(reference, hypothesis, tokens):
    if reference[0].session == "undefined":
        return None
    assert tokens("你 好。") == ["你", "好"]
    return abs(len(reference) - len(hypothesis)), len(reference)
"""


@pytest.fixture
def turn_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    add_distribution(
        monkeypatch, tmp_path / "site", "speakerlm.metrics", "turn-count", "outside_turn_count", TURN_COUNT
    )
    return "turn-count"


def test_metric_of_another_package_is_in_output_scores_tables_and_report(
    turn_count: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    ref, hyp, out = tmp_path / "ref.stm", tmp_path / "hyp.stm", tmp_path / "out"
    ref.write_text(STM, encoding="utf-8")
    hyp.write_text(STM.replace("m1 1 B 1.5 4 好的\n", ""), encoding="utf-8")
    command = [str(ref), str(hyp), "--out", str(out), "--metric", turn_count, "--metric", "orc_cer"]
    assert main(command) == 0
    assert "| turn-count | orc-cer |" in capsys.readouterr().out
    (row,) = json.loads((out / "scores.json").read_text(encoding="utf-8"))
    assert row["metrics"] == pytest.approx({"turn-count": 100 / 3, "orc-cer": 20.0})
    assert "### Further metrics, %" in (out / "tables.md").read_text(encoding="utf-8")
    (line,) = json.loads((out / "metrics.json").read_text(encoding="utf-8"))
    assert line["turn-count"] == pytest.approx(100 / 3)
    page = (out / "report.html").read_text(encoding="utf-8")
    assert "turn-count" in page
    assert "33.33" in page


def test_metric_of_another_package_scores_decoded_clips(turn_count: str, tmp_path: Path):
    (tmp_path / "decoded").mkdir()
    reference = [{"speaker": "spk0", "text": "你好", "start": 0, "end": 1}]
    clip = {"key": "a", "mode": "no", "raw": "spk0: 你好\nspk1: 好", "reference": reference, "split": "test"}
    (tmp_path / "decoded" / "no.jsonl").write_text(json.dumps(clip) + "\n", encoding="utf-8")
    assert main(["decoded", str(tmp_path / "decoded"), "--out", str(tmp_path / "out"), "--metric", turn_count]) == 0
    (row,) = json.loads((tmp_path / "out" / "scores.json").read_text(encoding="utf-8"))
    assert row["metrics"] == {"turn-count": 100.0}


def test_rows_without_further_metrics_have_no_such_key(tmp_path: Path):
    (tmp_path / "ref.stm").write_text(STM, encoding="utf-8")
    assert main([str(tmp_path / "ref.stm"), str(tmp_path / "ref.stm"), "--out", str(tmp_path / "out")]) == 0
    (row,) = json.loads((tmp_path / "out" / "scores.json").read_text(encoding="utf-8"))
    assert "metrics" not in row
    assert not (tmp_path / "out" / "metrics.json").exists()


def test_metrics_of_the_project_agree_with_the_figures_that_are_always_scored():
    metrics = load_metrics(["cer", "cpcer", "sacer"])
    for seed in range(50):
        found = score_session(random_session(seed), profile("none"), by_name=True, metrics=metrics)
        for figure, rate in found.metrics.items():
            edits = getattr(found, figure)
            assert (rate.errors, rate.length) == (edits.errors, edits.reference)


def test_metric_that_is_undefined_for_one_session_has_no_sum(turn_count: str):
    from dataclasses import replace

    (metric,) = load_metrics([turn_count])
    sessions = [random_session(1), random_session(2)]
    undefined = tuple(replace(r, session="undefined") for r in sessions[1].reference)
    sessions[1] = replace(sessions[1], reference=undefined)
    scores = [score_session(s, profile("paper-zh"), metrics=[metric]) for s in sessions]
    assert scores[1].metrics == {turn_count: None}
    assert total(scores).metrics == {turn_count: None}


def test_unknown_metrics_name_the_known_ones(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    with pytest.raises(ConfigError, match=r"cer, cpcer, .*orc-cer, sacer"):
        load_metrics(["mimo"])
    add_distribution(monkeypatch, tmp_path / "site", "speakerlm.metrics", "empty", "outside_empty_metric", "")
    with pytest.raises(ConfigError, match="no function score"):
        load_metrics(["empty"])
