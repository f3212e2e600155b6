"""`make reason` with almost no training: the demo's parts, three stages of dialogues, transcripts, tables."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from hashlib import sha256
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
pytestmark = pytest.mark.timeout(1800)  # two cores may be shared


def run(out: Path) -> str:
    command = [sys.executable, str(ROOT / "launch" / "reason.py"), "--smoke", "--out", str(out)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=out, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_all_stages_are_trained_and_scored_and_a_second_call_has_nothing_to_do(tmp_path: Path) -> None:
    out = tmp_path
    printed = run(out)
    assert re.search(r"done  \d+/\d+  stage 4: train", printed)
    runs = {n: json.loads((out / "reason" / "exp" / f"stage{n}" / "done").read_text()) for n in (11, 12, 13, 4)}
    before = json.loads((out / "exp" / "stage4" / "done").read_text())
    start_of = sha256((out / "reason" / "models" / "run" / "weights" / "model.safetensors").read_bytes()).hexdigest()
    assert runs[11]["bases"]["init_from"] == start_of
    assert runs[4]["bases"]["init_from"] == before["weights_sha256"]
    assert runs[13]["bases"]["init_from"] == runs[12]["weights_sha256"]
    found = json.loads((out / "reason" / "scores.json").read_text())
    assert [(r["test_set"], r["stage"]) for r in found["clips"]] == [("test-simulated", n) for n in (4, 12, 13)]
    assert found["clips"][0]["der"] is not None
    assert found["labels"]["pairs"] > 20
    assert "DER below SpeakerLM's" in (out / "reason" / "tables.md").read_text()
    assert "done" not in run(out)
