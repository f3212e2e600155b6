"""Half a minute of a telephone call: corpus, shards, dialogue on the page, and its answer through the scorer."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from pipeline.dialogue.view import show
from pipeline.evaluation.cli import main as score
from shards.cli import main
from shards.dataset.dataset import open_dataset
from shards.dataset.reader import read_sample
from shards.weights.package_weights import conversation
from tests.support.speech import package_cache


def test_conversation_goes_through_builder_and_scorer(tmp_path: Path) -> None:
    known = conversation(package_cache())
    (tmp_path / "in").mkdir()
    for path in (known.audio, known.words):
        shutil.copy(path, tmp_path / "in")
    prepared = ["prepare", "transcripts", str(tmp_path / "in"), str(tmp_path / "m"), "--name", "p", "--language", "en"]
    assert main([*prepared, "--workers", "1"]) == 0
    assert main(["pack", str(tmp_path / "m" / "all"), str(tmp_path / "packed"), "--no-speakers"]) == 0
    sample = read_sample(open_dataset(str(tmp_path / "packed")), 0, 0)
    turns = [text for who, text in show(sample) if who == "model"]
    assert 5 < len(turns) <= len(sample.segments) + 1
    out = tmp_path / "out"
    (tmp_path / "replies.jsonl").write_text(json.dumps({"key": "sample", "raw": turns}) + "\n", encoding="utf-8")
    command = [str(known.words), str(tmp_path / "replies.jsonl"), "--hyp-format", "speaker-reasoner", "--out", str(out)]
    names = ("der", "jer", "tcp-cer", "boundary-error", "speaker-count")
    assert score([*command, *(word for name in names for word in ("--metric", name))]) == 0
    (row,) = json.loads((out / "scores.json").read_text(encoding="utf-8"))
    assert (row["cer"], row["cpcer"]) == (0.0, 0.0)
    found = row["metrics"]
    assert (found["tcp-cer"], found["speaker-count"]) == (0.0, 100.0)
    assert found["der"] < 2.0  # times are rounded outwards to centiseconds, a turn has at least ten of them
    assert found["jer"] < 2.0
    assert found["boundary-error, s"] == pytest.approx(0.0, abs=0.02)
