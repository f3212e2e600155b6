"""The page of all systems on the demo's test sets: its steps, and what it says of transcripts that are not there."""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path
from typing import Any

import pytest

from pipeline.baselines.cascade import packed
from pipeline.baselines.cli import parser
from tests.support.datasets import make_dataset
from tests.support.pages import checked_page

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture
def peers(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(ROOT / "launch"))
    return importlib.import_module("peers")


def test_steps_are_commands_of_baselines_and_the_correction_follows_its_cascade(peers: Any, tmp_path: Path):
    steps = list(peers.peer_steps(tmp_path, 4, ("--llm", "http://localhost/v1", "--llm-model", "m")))
    asked = [parser().parse_args(step.command[3:]) for step in steps]
    assert [a.command for a in asked] == ["run", "run", "correct"] * 2
    assert [a.diarizer for a in asked if a.command == "run"] == ["clustering", "segmentation"] * 2
    assert all(a.out / "done" == step.proof for a, step in zip(asked, steps, strict=True))
    by_name = {step.name: a for step, a in zip(steps, asked, strict=True)}
    for step, a in zip(steps, asked, strict=True):
        if a.command == "correct":
            assert by_name[step.after[0]].out == a.decoded


def write_rows(folder: Path, keys: tuple[str, ...], run: str, stage: int | None) -> None:
    folder.mkdir(parents=True)
    reference = [{"speaker": "spk0", "start": 0.0, "end": 1.0, "text": "uno"}]
    rows = [{"key": k, "mode": "no", "raw": "spk0 [0.0, 1.0]: uno", "reference": reference} for k in keys]
    (folder / "no.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    about = {"run": run, "stage": stage, "test_set": folder.name}
    (folder / "decode.json").write_text(json.dumps({"about": about}))
    (folder / "done").touch()


def test_the_page_has_every_system_and_names_what_is_not_there(peers: Any, tmp_path: Path, monkeypatch, capsys):
    """All transcripts are there but the reasoner's, so no step runs."""
    for test in peers.TESTS:
        make_dataset(tmp_path / "data" / test, samples=2, speakers_per_sample=(2, 2), dim=8, seed=1)
        keys = packed(str(tmp_path / "data" / test)).keys
        for system in ("clustering", "segmentation", "corrected"):
            write_rows(peers.peer(tmp_path, system, test), keys[:1], system, None)
        write_rows(tmp_path / "decoded" / "stage4" / test, keys, "slm-stage4", 4)
    monkeypatch.setattr(sys, "argv", ["peers.py", "--out", str(tmp_path), "--limit", "1"])
    peers.main()
    printed = capsys.readouterr().out
    assert printed.count("missing: the reasoner after stage R3 (make reason) on test-") == 2
    page = checked_page((tmp_path / "peers" / "report.html").read_text(encoding="utf-8"))
    for system in ("clustering", "segmentation", "corrected", "slm-stage4"):
        assert system in page.text
    found = json.loads((tmp_path / "peers" / "scores.json").read_text())
    assert [len(r.get("missing", [])) for r in found if r["test_set"] == "test-harder"] == [1, 1, 1, 0]
    assert all(set(r["metrics"]) == set(peers.METRICS) for r in found)


def test_without_test_sets_it_says_what_to_do(peers: Any, tmp_path: Path, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["peers.py", "--out", str(tmp_path)])
    with pytest.raises(SystemExit, match=r"no packed test set .*test-simulated; run make demo first"):
        peers.main()
