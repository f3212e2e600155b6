"""Estimates against what the same model really holds."""

from __future__ import annotations

import dataclasses
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from pipeline.flops import Load
from pipeline.model.build import build_model, load_tokenizer, set_trainable
from pipeline.preflight.live_memory import LiveBytes
from pipeline.preflight.memory import (
    Memory,
    _fused_attention,
    _released_gradients,
    _zero3_linear,
    activations,
    inputs_of,
    plan_bytes,
    states,
)
from pipeline.preflight.shapes import empty_model
from pipeline.preflight.workload import Typical, work_from_sizes
from pipeline.prompts import Mode
from pipeline.recipe.load import load_recipe
from pipeline.recipe.shipped import CHECKOUT
from pipeline.stages import STAGES, Checkpointing
from tests.support.packed import example, pack
from tests.support.tiny import TinyBase, make_base, model_config


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> TinyBase:
    return make_base(tmp_path_factory.mktemp("base"))


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize(("number", "zero3"), [(1, False), (2, True), (2, False), (4, True)])
def test_activations_of_an_empty_model_are_those_of_the_real_one(
    base: TinyBase, number: int, zero3: bool, checkpointing: bool
) -> None:
    """Long targets behind little audio: the LLM decides. A GPU's attention keeps a little less than the one here."""
    cfg = dataclasses.replace(model_config(base, dropout=0.1), activation_checkpointing=Checkpointing.of(checkpointing))
    tokenizer = load_tokenizer(cfg)
    batch = pack(
        [
            example(Mode.MATCH, ("Mike", "Lucy"), "Mike: hi\nLucy: fine\n" * 40, 4000, seed=1),
            example(Mode.NO, (), "spk0: 你好，世界" * 80, 3000, seed=2),
        ],
        tokenizer,
    )
    real, (empty, _) = build_model(cfg), empty_model(cfg, "float32")
    for model in (real, empty):
        set_trainable(model, STAGES[number])
    with _zero3_linear(zero3), _released_gradients(real), LiveBytes() as live:
        real(**batch).loss.backward()
    estimated = activations(empty, Load.of(SimpleNamespace(**batch)), zero3)
    assert 0.9 < estimated / live.peak < 1.02
    assert torch.nn.functional.linear.__module__ != "deepspeed.runtime.zero.linear"


def test_inputs_of_a_shape_have_that_shape_and_run(base: TinyBase) -> None:
    load = Load(samples=(60, 40), frames=(20, 9), audio_positions=15, speakers=3, targets=12)
    model = build_model(model_config(base))
    inputs = inputs_of(load, model, "cpu", model.llm.config.vocab_size)
    assert Load.of(SimpleNamespace(**inputs)) == load
    assert inputs["position_ids"].tolist() == [*range(60), *range(40)]
    assert model(**inputs).loss > 0


def model_of(numels: dict[str, tuple[int, bool]]) -> Any:
    module = torch.nn.Module()
    for name, (numel, learns) in numels.items():
        module.register_parameter(name, torch.nn.Parameter(torch.empty(numel, device="meta"), requires_grad=learns))
    return module


MODEL = model_of({"frozen": (1_000_000, False), "small": (1000, False), "trained": (8000, True)})
TOTAL, TRAINED = 1_009_000, 8000


def zero(stage: int, **more: Any) -> dict[str, Any]:
    return {"zero_optimization": {"stage": stage, **more}}


def test_zero_stages_by_hand() -> None:
    one = states(MODEL, zero(1), "float32", 4)
    assert (one["weights"], one["optimizer"], one["gradients"]) == (4 * TOTAL, 3 * TRAINED, 8 * TRAINED)
    two = states(MODEL, zero(2, reduce_bucket_size=1000, overlap_comm=True), "bfloat16", 4)
    assert two == {
        "weights": 2 * TOTAL, "gathered": 0, "gradients": TRAINED, "optimizer": 3 * TRAINED,
        "buckets": 2 * 2 * 1000, "host": 0,
    }  # fmt: skip
    three = states(
        MODEL,
        zero(3, reduce_bucket_size=500, stage3_param_persistence_threshold=1000, stage3_max_live_parameters=20_000,
             stage3_prefetch_bucket_size=10),
        "bfloat16", 4,
    )  # fmt: skip
    assert three["weights"] == 2 * (TOTAL // 4 + 1000)  # the small one is whole everywhere
    assert three["gathered"] == 2 * 20_010
    assert (three["optimizer"], three["gradients"], three["buckets"]) == (3 * TRAINED, TRAINED, 1000)


def test_offloaded_state_is_counted_on_the_host() -> None:
    more: dict[str, Any] = {"offload_param": {"device": "cpu"}, "offload_optimizer": {"device": "cpu"}}
    parts = states(MODEL, zero(3, **more), "bfloat16", 2)
    assert parts["weights"] == parts["optimizer"] == parts["gradients"] == 0
    assert parts["host"] > 0
    assert states(MODEL, zero(3, offload_param={"device": "none"}), "bfloat16", 2)["host"] == 0


def test_one_rank_gathers_nothing() -> None:
    assert states(MODEL, zero(3), "bfloat16", 1)["gathered"] == 0


def test_sums() -> None:
    memory = Memory(1, 2, 4, 8, 16, 32, 64, host=128)
    assert (memory.states, memory.device) == (1 + 4 + 8 + 16, 127)


def test_attention_with_a_mask_holds_no_scores() -> None:
    """On a GPU, for which the meta device stands: they would be 64 MiB here."""
    q, k, v = (torch.zeros(1, 4, 2048, 16, device="meta", requires_grad=True) for _ in range(3))
    mask = torch.ones(1, 1, 1, 2048, dtype=torch.bool, device="meta")
    with _fused_attention(), LiveBytes() as live:
        out = torch.nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=mask, dropout_p=0.1)
        out.sum().backward()
    assert out.shape == q.shape
    assert q.grad is not None
    assert live.peak < 8 * 2**20


@pytest.mark.parametrize(
    ("setting", "dropout", "gib"),
    [(Checkpointing(encoder=True, llm_every=1), 0.05, 3.8), (Checkpointing(encoder=True), 0.0, 34.8)],
)
def test_the_7b_recipe_at_6000_positions(setting: Checkpointing, dropout: float, gib: float) -> None:
    """As first counted, before the encoder attended by torch's kernels; checkpointing hides the difference."""
    path = CHECKOUT / "launch" / "recipes" / "speakerlm-7b" / "stage4.yaml"
    recipe = load_recipe(path, [f"model.lora.dropout={dropout}"])
    model, _ = empty_model(recipe.model, "bfloat16")
    model.set_checkpointing(setting)
    model.trainable(STAGES[4].trains)
    model.train()
    (load,) = work_from_sizes(recipe, Typical(6000)).largest
    assert activations(model, load, zero3=False) / 2**30 == pytest.approx(gib, rel=0.03)
    assert plan_bytes(load) == 4 * 2**19  # of 31,500 rows in multiples of 8,192
