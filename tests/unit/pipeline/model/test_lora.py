"""LoRA's forward against peft's own, and what backward keeps of it."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import AutoConfig, AutoModelForCausalLM

from pipeline.model.lora import SharedDropout, add_lora, merge_lora
from pipeline.model.packed_forward import set_checkpointing

TARGETS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


def llm(dropout: float = 0.0, **lora: Any) -> Any:
    torch.manual_seed(0)
    config = AutoConfig.for_model(
        "qwen2", hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, vocab_size=50,
    )  # fmt: skip
    model = AutoModelForCausalLM.from_config(config).requires_grad_(False)
    add_lora(model, {"r": 4, "alpha": 12, "dropout": dropout, "targets": TARGETS, **lora})
    for name, p in model.named_parameters():
        p.requires_grad_("lora_" in name)
        if "lora_B" in name:
            torch.nn.init.normal_(p, std=0.1)
    return model.train()


def adapters(model: Any) -> list[Any]:
    return [m for m in model.modules() if hasattr(m, "lora_A")]


IDS = torch.arange(14).view(2, 7)


def gradients(model: Any) -> tuple[float, dict[str, torch.Tensor]]:
    model.zero_grad()
    torch.manual_seed(1)
    loss = model(input_ids=IDS, labels=IDS).loss
    loss.backward()
    return loss.item(), {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_values_and_gradients_are_those_of_peft(dropout: float) -> None:
    model = llm(dropout)
    ours = gradients(model)
    assert len(adapters(model)) == 14
    for adapter in adapters(model):
        del adapter.forward  # peft's own
    theirs = gradients(model)
    assert ours[0] == pytest.approx(theirs[0], rel=1e-6)
    assert len(ours[1]) == 28
    for name, gradient in ours[1].items():
        assert torch.allclose(gradient, theirs[1][name], atol=1e-6), name


class Operations(TorchDispatchMode):
    """Counts operations by name."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.seen[func.overloadpacket.__name__] += 1
        return func(*args, **(kwargs or {}))


def test_the_second_product_is_added_with_its_scale_by_one_operation() -> None:
    adapter = adapters(llm())[0]
    x = torch.randn(3, 32)
    with torch.no_grad(), Operations() as ours:
        adapter(x)
    with torch.no_grad(), Operations() as theirs:
        type(adapter).forward(adapter, x)
    assert theirs.seen["mul"] == theirs.seen["add"] == 1
    assert ours.seen["mul"] == ours.seen["add"] == 0
    assert ours.seen["addmm"] + ours.seen["mm"] == theirs.seen["addmm"] + theirs.seen["mm"]


def test_what_is_not_plain_lora_is_left_to_peft() -> None:
    adapter, x = adapters(llm())[0], torch.randn(3, 32)
    adapted = adapter(x)
    adapter.merge()
    assert torch.allclose(adapter(x), adapted, atol=1e-6)
    adapter.unmerge()
    adapter.enable_adapters(False)
    assert torch.equal(adapter(x), adapter.base_layer(x))


def test_adapters_of_one_input_share_a_mask_where_asked() -> None:
    model = llm(0.5, shared_dropout=True)
    inputs: dict[int, list[torch.Tensor]] = {}
    for adapter in adapters(model):
        of = inputs.setdefault(id(adapter.lora_dropout["default"]), [])
        adapter.lora_A["default"].register_forward_pre_hook(lambda _, args, of=of: of.append(args[0]))
    gradients(model)
    # q, k, v; o; gate, up; down: of 2 layers. o and down have inputs of their own, so masks of their own.
    distinct = [len({id(x) for x in of}) for of in inputs.values()]
    assert sorted(map(len, inputs.values())) == [3, 3, 4, 4]
    assert sorted(distinct) == [2, 2, 2, 2]
    assert all((x == 0).any() for of in inputs.values() for x in of)
    model.eval()
    assert torch.equal(model(input_ids=IDS).logits, model(input_ids=IDS).logits)


def test_a_shared_mask_is_drawn_again_for_the_next_tensor_and_is_not_kept() -> None:
    shared = SharedDropout(0.5)
    x = torch.ones(1000)
    first = shared(x)
    assert shared(x) is first
    del x
    assert shared._dropped is None
    assert not torch.equal(shared(torch.ones(1000)), shared(torch.ones(1000)))
    assert torch.equal(shared.eval()(first), first)


def test_a_shared_mask_is_the_same_when_activations_are_computed_again() -> None:
    model = llm(0.5, shared_dropout=True)
    expected = gradients(model)
    set_checkpointing(model, 1)
    model.train()
    again = gradients(model)
    assert again[0] == expected[0]
    for name, gradient in again[1].items():
        assert torch.equal(gradient, expected[1][name]), name


def test_merged_lora_gives_the_same_outputs_without_its_modules() -> None:
    model = llm().eval()
    with torch.no_grad():
        before = model(IDS).logits
        merge_lora(model)
        assert not adapters(model)
        assert not any("lora" in name for name, _ in model.named_parameters())
        torch.testing.assert_close(model(IDS).logits, before, rtol=1e-4, atol=1e-5)
