"""Scores on a model card."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from pipeline.export.card_scores import model_index, read_scores, scores_section, smaller_scores
from shards.errors import ScoreError

ROW = {
    "run": "tiny-run", "stage": 2, "test_set": "AliMeeting", "split": "Test", "unit": "clip", "mode": "match",
    "n_ov": None, "cer": 21.5, "cpcer": 30.254, "sacer": None, "delta_cp": 8.75, "delta_sa": None, "n_ref": 1000,
    "ci": None, "normaliser": "paper-zh 1",
}  # fmt: skip


def test_hugging_face_gets_each_figure_of_a_row() -> None:
    (entry,) = yaml.safe_load(model_index("mine", [ROW]))["model-index"]
    assert entry["name"] == "mine"
    (result,) = entry["results"]
    assert result["dataset"] == {"type": "AliMeeting", "name": "AliMeeting (match)", "split": "Test"}
    assert [(m["type"], m["value"]) for m in result["metrics"]] == [("cer", 21.5), ("cpcer", 30.25)]
    assert model_index("mine", [{**ROW, "cer": None, "cpcer": None}]) == ""


def test_rounded_weights_are_compared_with_those_of_the_folder() -> None:
    rounded = {**ROW, "run": "tiny-run (int8)", "cer": 22.0}
    table = smaller_scores([ROW, rounded, {**rounded, "test_set": "other"}])
    assert "| int8 | AliMeeting, match | 21.50 → 22.00 | 30.25 → 30.25 | – → – |" in table
    assert "other" not in table
    assert smaller_scores([rounded]) == smaller_scores([ROW]) == ""
    assert model_index("mine", [rounded]) == ""


def test_the_last_whole_line_of_validations_is_stated(tmp_path: Path) -> None:
    rows = [{"step": s, "loss": s / 10, "losses": {"test": s / 10}, "scores": None} for s in (10, 20)]
    rows[1]["scores"] = {"no": {"cer": 50.0, "cpcer": 61.257, "sacer": None}}
    (tmp_path / "validation.jsonl").write_text("".join(f"{json.dumps(r)}\n" for r in rows) + '{"step": 30, "lo')
    section = scores_section([], tmp_path)
    assert section.startswith("No scores of test sets")
    assert "at step 20: loss 2.0000 per token (test 2.0000)" in section
    assert "| no | 50.00 | 61.26 | – |" in section
    assert "step 30" not in section
    assert "30.25" in scores_section([ROW], tmp_path)
    (tmp_path / "validation.jsonl").unlink()
    assert scores_section([], tmp_path).endswith("when this folder was written.")


@pytest.mark.parametrize("text", ["[", "[1]", '[{"mode": "no"}]', "{}x"])
def test_another_file_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "scores.json").write_text(text)
    with pytest.raises(ScoreError, match="not scores that speakerlm-score wrote"):
        read_scores(tmp_path / "scores.json", asked=False)
    assert read_scores(tmp_path / "missing.json", asked=False) == []
    with pytest.raises(ScoreError, match="no such file"):
        read_scores(tmp_path / "missing.json", asked=True)
