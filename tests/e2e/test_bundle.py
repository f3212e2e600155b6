"""The bundle for a GPU machine, run whole with tiny sizes on a CPU by another Python: `make test-bundle`.

SPEAKERLM_BUNDLE_PYTHON is a Python 3.12 with torch 2.11 and what the page of the benchmarks says that such a machine
has. Without it, this environment's Python runs the bundle's code, without its wheels.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.support.distributed import ROOT
from tests.support.speech import package_cache

pytestmark = pytest.mark.timeout(1800)
MACHINE = os.environ.get("SPEAKERLM_BUNDLE_PYTHON")
QUESTIONS = ("kernels", "engines", "memory", "syncs", "top", "shapes", "run", "step", "options")


def call(command: list[str], **env: str) -> subprocess.CompletedProcess[str]:
    full = {**os.environ, "DS_ACCELERATOR": "cpu", "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1", **env}
    return subprocess.run(command, cwd=ROOT, env=full, capture_output=True, text=True, check=False, timeout=1700)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As gpu_bundle.py makes it."""
    folder = tmp_path_factory.mktemp("bundle") / "b"
    cache = str(package_cache())
    options = ["--no-needs", *([] if MACHINE else ["--no-wheels"])]
    done = call([sys.executable, "benchmarks/gpu_bundle.py", str(folder), *options], SPEAKERLM_CACHE=cache)
    if "FetchError" in done.stderr:
        pytest.skip("the recordings cannot be had")
    assert done.returncode == 0, done.stderr[-3000:]
    assert json.loads(done.stdout.splitlines()[-1])["met"]
    return folder


def test_the_whole_bundle_answers_at_tiny_sizes(bundle: Path, tmp_path: Path) -> None:
    out = tmp_path / "results"
    if MACHINE:
        done = call(["bash", str(bundle / "run.sh"), "--small", "--out", str(out)], PATH=_path_of(MACHINE))
    else:
        script = str(bundle / "src" / "benchmarks" / "gpu_first.py")
        data = ["--data", str(bundle / "data")]
        done = call([sys.executable, script, "--small", "--out", str(out), *data], PYTHONPATH=str(bundle / "src"))
    answers = [json.loads(line) for line in (out / "answers.jsonl").read_text().splitlines()]
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert list(dict.fromkeys(a["question"] for a in answers)) == list(QUESTIONS)
    assert not [a for a in answers if a.get("right") is False or "error" in a], answers
    of = {q: [a for a in answers if a["question"] == q] for q in QUESTIONS}
    assert [a["exit code"] for a in of["run"][:2]] == [85, 0]
    assert [a["steps"] for a in of["run"] if "stage" in a] == [6, 6]
    assert {a["engine"] for a in of["engines"] if "engine" in a} == {"bare", "zero2", "zero3"}
    assert len(of["memory"]) == 9
    answered = {a["option"]: a for a in of["options"] if "option" in a}
    assert all("seconds" in answered[option] for option in ("none", "encoder.compile"))
    if MACHINE:  # torch 2.11 multiplies rows of float8 on a GPU only
        assert "cannot multiply rows of float8 on cpu" in answered["llm.float8"]["not run"]
    _rows_of_the_step(out)


def _rows_of_the_step(out: Path) -> None:
    rows: list[dict[str, Any]] = [json.loads(line) for line in (out / "gpu_step.jsonl").read_text().splitlines()]
    assert rows == json.loads((out / "gpu_step.json").read_text())["rows"]
    assert not [r for r in rows if "error" in r or "skipped" in r]


def _path_of(python: str) -> str:
    return f"{Path(python).parent}:{os.environ['PATH']}"
