"""Liger's kernels in the LLM: what the switch asks the package for; with the package, its kernels in an interpreter."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from pipeline.model.liger import use_liger
from shards.errors import ModelError
from tests.unit.pipeline.model.test_lora import llm

CHECKOUT = Path(__file__).resolve().parents[4]


@pytest.fixture
def package(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """liger-kernel, played: its function for qwen2 notes what it is asked for."""
    asked: list[dict[str, Any]] = []

    def apply(
        rope: bool = True, cross_entropy: bool = False, fused_linear_cross_entropy: bool = True, model: Any = None
    ):
        asked.append({"rope": rope, "losses": (cross_entropy, fused_linear_cross_entropy), "model": model})

    patches = ModuleType("liger_kernel.transformers.monkey_patch")
    patches.MODEL_TYPE_TO_APPLY_LIGER_FN = {"qwen2": apply}  # type: ignore[attr-defined]
    transformers = ModuleType("liger_kernel.transformers")
    transformers.monkey_patch = patches  # type: ignore[attr-defined]
    for name, module in (("liger_kernel", ModuleType("liger_kernel")), (transformers.__name__, transformers)):
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    return asked


def test_everything_but_the_loss_is_asked_for(package: list[dict[str, Any]]) -> None:
    model = llm()
    use_liger(model)
    assert package == [{"rope": True, "losses": (False, False), "model": model}]


def test_an_llm_that_it_does_not_know_is_refused(package: list[dict[str, Any]]) -> None:
    model = llm()
    model.config.model_type = "gpt_neox"
    with pytest.raises(ModelError, match=r"has none for gpt_neox: set model\.llm\.liger: false"):
        use_liger(model)
    assert package == []


def test_without_a_gpu_or_the_package_the_error_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ModelError, match="run on a GPU, and this machine has no GPU"):
        use_liger(llm())
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    monkeypatch.setitem(sys.modules, "liger_kernel", None)
    with pytest.raises(ModelError, match="pip install liger-kernel"):
        use_liger(llm())


COMPARE = """
import numpy, torch, triton.language as tl
from triton.runtime import interpreter

plain = interpreter._implicit_cvt  # what triton's interpreter lacks on a CPU: numbers as arguments, libdevice's rsqrt
def number(value):
    if not isinstance(value, float):
        return plain(value)
    return tl.tensor(interpreter.TensorHandle(numpy.array([value], dtype=numpy.float32), tl.float32), tl.float32)
interpreter._implicit_cvt = number
from liger_kernel.ops import rms_norm
rms_norm.rsqrt = lambda x: tl.rsqrt(x)  # looked up when the interpreter runs

from pipeline.model.liger import use_liger
from pipeline.preflight.options import like_liger
from tests.unit.pipeline.model.test_lora import gradients, llm

def forwards(model):
    return {n for n, m in model.named_modules() if "forward" in vars(m)}

model = llm()
before = forwards(model)
with like_liger(model):
    counted = forwards(model) - before
expected = gradients(model)
use_liger(model)
replaced = forwards(model) - before
assert replaced == counted, (replaced, counted)
assert len(replaced) == 2 * 3 + 1, replaced  # two norms and the feed-forward layer of each layer, the last norm
found = gradients(model)
assert abs(found[0] / expected[0] - 1) < 1e-6, (found[0], expected[0])
for name, gradient in found[1].items():
    torch.testing.assert_close(gradient, expected[1][name], rtol=1e-4, atol=1e-6)
print("equal")
"""


@pytest.mark.skipif(not (find_spec("liger_kernel") and find_spec("triton")), reason="needs liger-kernel and triton")
def test_its_kernels_give_the_loss_and_gradients_of_transformers() -> None:
    env = os.environ | {"TRITON_INTERPRET": "1"}
    command = [sys.executable, "-c", COMPARE]
    done = subprocess.run(command, cwd=CHECKOUT, env=env, capture_output=True, text=True, check=False)
    assert done.stdout.splitlines()[-1:] == ["equal"], done.stdout + done.stderr
