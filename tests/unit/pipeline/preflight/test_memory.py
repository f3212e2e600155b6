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
from pipeline.preflight.memory import Memory, _released_gradients, _zero3_linear, activations, inputs_of, states
from pipeline.preflight.shapes import empty_model
from pipeline.prompts import Mode
from pipeline.stages import STAGES
from tests.support.packed import DIM, example, pack
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
    cfg = dataclasses.replace(model_config(base, dropout=0.1), activation_checkpointing=checkpointing)
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
    inputs = inputs_of(load, DIM, "cpu", model.llm.config.vocab_size)
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
    plain = states(MODEL, {}, "float32", 4)
    assert (plain["weights"], plain["optimizer"], plain["gradients"]) == (4 * TOTAL, 12 * TRAINED, 8 * TRAINED)
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
