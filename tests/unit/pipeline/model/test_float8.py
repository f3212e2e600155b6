"""The LLM's frozen linear layers in float8, beside fp32 and bf16. torchao multiplies float8 on a CPU too."""

from __future__ import annotations

import sys
from typing import Any

import pytest
import torch

from pipeline.model import float8
from pipeline.model.float8 import Float8Linear, torchao, use_float8
from pipeline.preflight.memory import states
from shards.errors import ModelError
from tests.unit.pipeline.model.test_lora import gradients, llm

CPU = torch.device("cpu")


def in_float8(dtype: torch.dtype = torch.float32) -> Any:
    model = llm().to(dtype)
    use_float8(model, CPU)
    return model


def test_the_decoders_frozen_layers_are_replaced_and_nothing_else() -> None:
    model = in_float8()
    replaced = [n for n, m in model.named_modules() if isinstance(m, Float8Linear)]
    assert len(replaced) == 14
    assert all(n.endswith("base_layer") for n in replaced)
    plain = {n for n, m in model.named_modules() if type(m) is torch.nn.Linear}
    assert "lm_head" in plain
    assert len(plain) == 1 + 2 * 14  # LoRA's
    assert {n for n, p in model.named_parameters() if p.requires_grad} == {
        n for n, p in llm().named_parameters() if p.requires_grad
    }


def test_a_product_is_that_of_rounded_rows() -> None:
    torch.manual_seed(0)
    plain = torch.nn.Linear(48, 32).requires_grad_(False)
    layer, x = Float8Linear(plain, CPU), torch.randn(2, 5, 48, requires_grad=True)
    held = torchao().tensor(layer.weight, layer.scale, torch.float32).dequantize()
    assert layer.weight.numel() * layer.weight.element_size() == 48 * 32
    assert 0 < float((held - plain.weight).norm() / plain.weight.norm()) < 0.04  # 3 bits of mantissa
    out = layer(x)
    rounded = torchao().from_hp(x.detach().flatten(0, 1)).dequantize().view_as(x)
    torch.testing.assert_close(out, rounded @ held.T + plain.bias, rtol=1e-5, atol=1e-5)
    weight = torch.randn_like(out)
    (out * weight).sum().backward()
    torch.testing.assert_close(x.grad, weight @ held)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_the_loss_is_within_0_2_percent_and_gradients_point_the_same_way(dtype: torch.dtype) -> None:
    expected, found = gradients(llm().to(dtype)), gradients(in_float8(dtype))
    assert found[0] != expected[0]
    assert found[0] == pytest.approx(expected[0], rel=2e-3)
    ours, theirs = (torch.cat([g.flatten().float() for g in grads.values()]) for grads in (found[1], expected[1]))
    assert float(torch.nn.functional.cosine_similarity(ours, theirs, dim=0)) > 0.99


def test_memory_counts_bytes() -> None:
    zero = {"zero_optimization": {"stage": 2}}
    plain, rounded = (states(m, zero, "bfloat16", 2)["weights"] for m in (llm(), in_float8()))
    layers = sum(m.weight.numel() for m in in_float8().modules() if isinstance(m, Float8Linear))
    assert plain - rounded == layers


def test_a_card_without_float8_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (8, 0))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "NVIDIA A800")
    with pytest.raises(ModelError, match=r"A800 \(compute capability 8\.0\) has no float8.*llm\.float8: false"):
        use_float8(llm(), torch.device("cuda"))


def test_a_missing_torchao_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("torchao", "torchao.float8.inference"):
        monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.setattr(float8, "torchao", float8.torchao.__wrapped__)
    with pytest.raises(ModelError, match="pip install torchao"):
        use_float8(llm(), CPU)


def test_a_torch_without_the_product_is_refused_at_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: Any) -> Any:
        raise RuntimeError("Now _scaled_mm only supports per-tensor scaling for CPU backend.\nmore")

    monkeypatch.setattr(float8.functional, "linear", fails)
    with pytest.raises(ModelError, match=r"cannot multiply rows of float8 on cpu \(Now _scaled_mm .* backend.\): set"):
        use_float8(llm(), torch.device("cpu"))
