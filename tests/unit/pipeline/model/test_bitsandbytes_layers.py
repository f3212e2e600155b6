"""The LLM by bitsandbytes, on a CPU: what is replaced, how far products are off, answers, errors."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from pipeline.decode.engine import answer
from pipeline.decode.load_engine import load_engine, smaller
from pipeline.model.bitsandbytes_layers import use_bitsandbytes
from pipeline.model.stopping import Guards
from pipeline.prompts import Mode, Prompt, prompt_pieces
from shards.errors import ConfigError
from tests.support.training import finished_run, make_parts


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("parts")
    make_parts(folder)
    return finished_run(folder)


@pytest.mark.parametrize(("kind", "most"), [("int8", 0.02), ("nf4", 0.2)])
def test_the_llm_alone_is_rounded(run: Path, kind: str, most: float) -> None:
    import bitsandbytes as bits

    network = load_engine(run, "cpu").engine.model  # type: ignore[attr-defined]
    before = {n: m for n, m in network.named_modules() if type(m) is nn.Linear}
    use_bitsandbytes(network, kind, "cpu")
    rounded = {n: m for n, m in network.named_modules() if isinstance(m, (bits.nn.Linear8bitLt, bits.nn.Linear4bit))}
    assert rounded.keys() == {n for n in before if n.startswith("llm.") and ".lora_" not in n and "lm_head" not in n}
    torch.manual_seed(0)
    with torch.inference_mode():
        for name, layer in rounded.items():
            x = torch.randn(2, 3, before[name].in_features)
            right, found = before[name](x), layer(x)
            assert found.dtype == right.dtype
            assert ((found - right).norm() / right.norm()) < most
            assert layer.weight.element_size() == 1
            assert layer.weight.numel() * (2 if kind == "nf4" else 1) == before[name].weight.numel()


def test_answers_come_and_the_engine_says_how(run: Path) -> None:
    torch.manual_seed(1)
    prompts = [Prompt(tuple(prompt_pieces(Mode.NO)), (0.1 * torch.randn(n)).numpy()) for n in (8000, 16000)]
    engine = load_engine(run, "cpu", guards=Guards(max_new_tokens=8), quantize="nf4").engine
    found = answer(engine, prompts)
    assert all(a.tokens for a in found)
    assert answer(engine, prompts) == found
    assert engine.described() == {"quantize": "nf4"}


def test_without_the_package_it_is_named(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    with pytest.raises(ConfigError, match=r"needs bitsandbytes .*\[quantize\]"):
        load_engine(run, "cpu", quantize="nf4")


def test_a_gpu_gets_bitsandbytes_for_8_bits_too(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[str, str]] = []
    monkeypatch.setattr(
        "pipeline.model.bitsandbytes_layers.use_bitsandbytes", lambda _, kind, device: asked.append((kind, device))
    )
    smaller(None, "cuda:1", "int8")
    smaller(None, "cpu", "nf4")
    assert asked == [("int8", "cuda:1"), ("nf4", "cpu")]


def test_a_device_that_the_library_cannot_use_is_named(run: Path) -> None:
    network = load_engine(run, "cpu").engine.model  # type: ignore[attr-defined]
    with pytest.raises(ConfigError, match="bitsandbytes cannot use"):
        use_bitsandbytes(network, "nf4", "cuda:7")
