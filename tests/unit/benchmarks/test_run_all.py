"""`make bench`: a benchmark that fails is reported with its log, and the others still run."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks import run_all


def test_a_line_of_json_becomes_a_row_and_a_failure_names_its_log(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tmp_path / "root"
    (root / "benchmarks").mkdir(parents=True)
    found = {"name": "good", "figures": {"speed": 1.5}, "targets": {"speed": 2.0}, "met": False}
    (root / "benchmarks" / "good.py").write_text(
        f"print('a table'); print('''{json.dumps(found)}'''); raise SystemExit(1)"
    )
    (root / "benchmarks" / "bad.py").write_text("raise ValueError('no data')")
    monkeypatch.setattr(run_all, "ROOT", root)
    results = {name: run_all.one(name, (), tmp_path) for name in ("good", "bad")}
    assert {k: v for k, v in results["good"].items() if k != "seconds"} == found
    assert results["bad"]["failed"] == f"exit code 1, see {tmp_path / 'bad.log'}"
    assert "no data" in (tmp_path / "bad.log").read_text()
    good, bad = run_all.table(results)[1:]
    assert good.split()[0] == "good"
    assert good.split()[2:] == ["speed", "1.5", "2.0", "missed"]
    assert bad.endswith("bad.log")


def test_every_benchmark_without_a_gpu_is_run() -> None:
    folder = Path(run_all.__file__).parent
    programs = {p.stem for p in folder.glob("*.py") if '"--check"' in p.read_text() and not p.stem.startswith("gpu_")}
    assert programs - {"run_all"} == set(run_all.NAMES)
