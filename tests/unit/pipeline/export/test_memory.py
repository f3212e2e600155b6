"""Exporting takes the memory of the largest tensor, not of the model."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

from pipeline.recipe.schema import LlmConfig
from tests.support.architectures import make_causal_lm
from tests.support.finished_runs import make_finished_run
from tests.support.tiny import make_base, model_config

# A small export first: imports and warm-up are not what is measured. Reading the LLM whole shows that the scale works.
SCRIPT = """
import json, sys
from pathlib import Path
import torch
from safetensors.torch import load
from pipeline.export.folder import export
from tests.support.memory import Watch

torch.set_num_threads(1)
small, large, llm, out = map(Path, sys.argv[1:5])
grown = []
for merge in (False, True):
    export(small, out / f"small-{merge}", merge)
    with Watch() as watch:
        export(large, out / f"large-{merge}", merge, largest=10**12)
    grown.append(watch.grown)
with Watch() as whole:
    tensors = load((llm / "model.safetensors").read_bytes())
print(json.dumps({"grown": grown, "whole": whole.grown}))
"""


def test_peak_memory_grows_by_a_few_tensors_only(tmp_path: Path, run: Path) -> None:
    base = make_base(tmp_path / "base")
    llm = make_causal_lm(base.llm, "qwen2", hidden_size=512, intermediate_size=4096, num_hidden_layers=16)
    large = make_finished_run(tmp_path / "run", replace(model_config(base), llm=LlmConfig(checkpoint=str(llm))))
    size = (llm / "model.safetensors").stat().st_size
    assert size > 400e6
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, run, large, llm, tmp_path / "out"],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["whole"] > 0.9 * size
    for grown in found["grown"]:  # LoRA beside, and merged
        print(f"grown by {grown / 1e6:.0f} MB for a model of {size / 1e6:.0f} MB")
        assert grown < 0.15 * size
