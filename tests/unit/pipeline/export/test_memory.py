"""Exporting takes the memory of the largest tensor, not of the model."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from pipeline.config import LlmConfig
from tests.support.architectures import make_causal_lm
from tests.support.finished import make_finished_run
from tests.support.tiny import make_base, model_config

# A small export first: imports and warm-up are not what is measured.
SCRIPT = """
import json, resource, sys
from pathlib import Path
import torch
from pipeline.export.folder import export

torch.set_num_threads(1)
small, large, out, merge = Path(sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[3]), sys.argv[4] == "True"
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
export(small, out / "small", merge)
before = peak()
export(large, out / "large", merge, largest=10**12)
print(json.dumps({"before": before, "grown": peak() - before}))
"""


@pytest.mark.parametrize("merge", [False, True])
def test_peak_memory_grows_by_a_few_tensors_only(tmp_path: Path, run: Path, merge: bool) -> None:
    base = make_base(tmp_path / "base")
    llm = make_causal_lm(base.llm, "qwen2", hidden_size=512, intermediate_size=4096, num_hidden_layers=16)
    large = make_finished_run(tmp_path / "run", replace(model_config(base), llm=LlmConfig(checkpoint=str(llm))))
    size = (llm / "model.safetensors").stat().st_size
    assert size > 400e6
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, run, large, tmp_path / "out", str(merge)],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    grown = json.loads(done.stdout.splitlines()[-1])["grown"]
    print(f"grown by {grown / 1e6:.0f} MB for a model of {size / 1e6:.0f} MB")
    assert grown < 0.15 * size, f"{grown / 1e6:.0f} MB more for a model of {size / 1e6:.0f} MB"
