"""Benchmarks of the step: what they compare is the same work, and every case of the GPU's runs at tiny sizes here."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import warnings
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from benchmarks import gpu_step
from benchmarks.gpu_bundle import BUILT, WHEELS, copy_code, pinned
from benchmarks.gpu_parts import Bench, shape
from benchmarks.micro_batches import Lengths, clips, full, micro_batch, padded_loss, utterances
from pipeline.flops import Load
from pipeline.model.configuration_speakerlm import SpeakerLMConfig
from pipeline.model.modeling_speakerlm import SpeakerLMForConditionalGeneration
from pipeline.recipe.shipped import CHECKOUT


def test_packed_and_padded_hold_the_same_samples_and_give_the_same_loss() -> None:
    torch.manual_seed(0)
    model = SpeakerLMForConditionalGeneration(SpeakerLMConfig(**shape(small=True))).eval()
    samples = [Lengths(20, 7, 5), Lengths(31, 4, 9), Lengths(8, 3, 2)]
    packed, padded = (micro_batch(samples, 500, 192, "cpu", pad) for pad in (False, True))
    loss = model(**packed).loss
    assert loss.item() == pytest.approx(padded_loss(model, padded, samples).item(), rel=1e-5)
    load = Load.of(SimpleNamespace(**packed))
    assert load.frames == (20, 31, 8)
    assert load.samples == tuple(s.positions for s in samples)
    for on in (True, False):
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # transformers renames what switches it
            model.train().set_checkpointing(on)
        assert model.llm.is_activation_checkpointing is on


@pytest.mark.parametrize("positions", [40, 240, 6000, 16384])
def test_micro_batches_are_full(positions: int) -> None:
    for kind in (clips, utterances):
        assert sum(s.positions for s in full(positions, kind(500))) == positions


def test_every_case_of_the_gpu_benchmark_runs_at_tiny_sizes(tmp_path: Path) -> None:
    command = [sys.executable, "benchmarks/gpu_step.py", "--small", "--check", "--repeats", "1", "--out", str(tmp_path)]
    done = subprocess.run(command, cwd=CHECKOUT, capture_output=True, text=True, check=False, timeout=280)
    assert done.returncode == 0, done.stdout + done.stderr
    last = json.loads(done.stdout.splitlines()[-1])
    assert last["name"] == "gpu_step"
    rows = json.loads((tmp_path / "gpu_step.json").read_text())["rows"]
    assert len(rows) == 28
    assert not [r for r in rows if "error" in r or "skipped" in r]
    assert rows == [json.loads(line) for line in (tmp_path / "gpu_step.jsonl").read_text().splitlines()]
    assert {"ours_over_plain_text", "packed_over_padded", "deepspeed_over_bare"} <= last["figures"].keys()


def test_a_card_is_asked_only_for_cases_that_it_holds(monkeypatch: pytest.MonkeyPatch) -> None:
    """By preflight's count, which knows every case; what is skipped is no failure of --check."""
    b = Bench(True, "meta", torch.float32, 1e9, 1)
    monkeypatch.setattr(b, "build", lambda: None)
    ran: list[str] = []

    def figures(_: Bench, case: Any, *__: Any) -> dict[str, Any]:
        ran.append(getattr(case, "name", "other"))
        sizes = {"positions": 9, "seconds": 1.0, "audio_h_h": 1.0, "model_tflop_s": 1.0, "peak_gib": 1.0}
        return sizes | {"tokens_s": 1.0, "mfu": 0.5, "hfu": 0.6, "over_plain": 1.0}

    for name in ("ours", "padded", "whole_logits", "beside_plain_text", "deepspeed_step"):
        monkeypatch.setattr(gpu_step, name, figures)
    monkeypatch.setattr(gpu_step, "card_gib", lambda: 79.1)
    needs = gpu_step.all_needs(small=True)
    wanted = [case.name for group in gpu_step.cases(b) for case in group]
    assert set(needs) == set(wanted)
    large = {name for name in wanted if "checkpointing none" in name}
    gpu_step.run(b, {name: 91.0 if name in large else gib for name, gib in needs.items()})
    assert set(ran) - {"other"} == set(wanted) - large
    skipped = {r["case"]: r["skipped"] for r in b.rows if "skipped" in r}
    assert set(skipped) == large
    assert set(skipped.values()) == {"not run: it needs 91.0 GiB, the card has 79.1"}
    assert not [r for r in b.rows if "error" in r]


def test_what_is_taken_to_a_gpu(tmp_path: Path) -> None:
    versions = pinned()
    assert not [name for name in (*WHEELS, *BUILT) if name not in versions]
    assert copy_code(tmp_path) > 100
    assert (tmp_path / "benchmarks" / "gpu_step.py").is_file()
    command = [sys.executable, "benchmarks/gpu_step.py", "--help"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert "--small" in done.stdout


def test_a_package_that_is_missing_is_named_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "peft.py").write_text("import a_package_of_peft")
    command = [sys.executable, "benchmarks/gpu_step.py", "--small"]
    env = os.environ | {"PYTHONPATH": str(tmp_path)}
    done = subprocess.run(command, cwd=CHECKOUT, capture_output=True, text=True, check=False, env=env)
    assert done.returncode == 3
    said = "the package a_package_of_peft is missing here: install it, or put its wheel beside the others"
    assert (done.stdout, done.stderr.splitlines()[-1]) == ("", said)


@pytest.mark.parametrize("name", ["step", "gpu_step"])
def test_help_imports_no_torch(name: str) -> None:
    code = (
        f"import sys, runpy; sys.argv = ['x', '--help']\n"
        f"try: runpy.run_path('benchmarks/{name}.py', run_name='__main__')\nexcept SystemExit: pass\n"
        "assert not {'torch', 'transformers', 'deepspeed'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], cwd=CHECKOUT, check=True, capture_output=True)
