"""The formulas against what torch counts while the real model runs."""

from __future__ import annotations

import dataclasses
from types import SimpleNamespace

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from pipeline import flops
from pipeline.cards import CARDS, card, card_of_driver
from pipeline.frames import fbank_frames
from pipeline.model.build import build_model, load_tokenizer, set_trainable
from pipeline.prompts import Mode
from pipeline.stages import STAGES, Checkpointing
from shards.errors import ConfigError
from tests.support.packed import example, pack
from tests.support.tiny import TinyBase, make_base, model_config


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> TinyBase:
    return make_base(tmp_path_factory.mktemp("base"))


def products(counter: FlopCounterMode) -> float:
    """Operations of matrix products, less the filterbank's.

    Not of CPU attention, which torch counts as nothing, nor of grouped convolutions, which it takes for dense ones.
    """
    counted = {str(op): n for op, n in counter.get_flop_counts()["Global"].items()}
    filterbank = 2 * (fbank_frames(48000) + fbank_frames(24000)) * 257 * 80
    return sum(n for op, n in counted.items() if op in ("aten.mm", "aten.addmm", "aten.bmm")) - filterbank


@pytest.mark.parametrize(
    "checkpointing",
    [
        Checkpointing(),
        Checkpointing(encoder=True, llm_every=1),
        Checkpointing(llm_every=2),
        Checkpointing(encoder=True),
    ],
    ids=str,
)
@pytest.mark.parametrize("number", sorted(STAGES))
def test_the_formulas_are_what_the_model_computes(base: TinyBase, number: int, checkpointing: Checkpointing) -> None:
    cfg = dataclasses.replace(model_config(base), activation_checkpointing=checkpointing)
    model, tokenizer = build_model(cfg), load_tokenizer(cfg)
    set_trainable(model, STAGES[number])
    batch = pack(
        [
            example(Mode.MATCH, ("Mike", "Lucy"), "Mike: hi\nLucy: fine", 48000, seed=1),
            example(Mode.NO, (), "spk0: 你好，世界", 24000, seed=2),  # half of it is padding
        ],
        tokenizer,
    )
    convolutions = sum(p.numel() for p in model.encoder.parameters() if p.ndim == 3)
    sizes = flops.Sizes.of(model)
    counted_by_torch = dataclasses.replace(
        sizes, encoder=sizes.encoder - convolutions, llm_width=0, projector_layers=0, encoder_layers=0
    )
    load = flops.Load.of(SimpleNamespace(**batch))
    ours = flops.count(counted_by_torch, load, STAGES[number].trains, checkpointing)
    with FlopCounterMode(display=False) as counter:
        model(**batch).loss.backward()
    # Not exact: the first trained layer's input needs no gradient, and recomputation stops at the last saved tensor.
    assert products(counter) == pytest.approx(ours.hardware, rel=0.05)
    assert ours.model < 0.9 * ours.hardware  # valid frames only, and nothing twice
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model(**batch)
    forward = flops.count(counted_by_torch, load, STAGES[number].trains, checkpointing, backward=False)
    assert products(counter) == pytest.approx(forward.hardware, rel=0.005)


SIZES = flops.Sizes(7, 5, 3, 11, 13, 17, 19, 2, 4, 3, 6, 2)


def test_by_hand() -> None:
    load = flops.Load(samples=(10, 20), frames=(30, 10), audio_positions=20, speakers=3, targets=6)
    stage2 = flops.count(SIZES, load, {"audio_projector", "speaker_projector"}, checkpointing=False)
    attention = 2 * 4 * 2 * (10**2 + 20**2)
    assert stage2.by_module == {
        "encoder": 2 * 11 * 40 + 4 * 6 * 3 * (900 + 100),  # 2N: nothing flows back
        "audio_projector": 6 * 13 * 40 + 3 * 4 * 6 * 2 * (900 + 100) + 6 * 17 * 20,
        "llm": 4 * 7 * 30 + 3 * attention,  # 4N: frozen, gradients pass
        "lora": 4 * 3 * 30,
        "head": 4 * 5 * 6,
        "speaker_projector": 6 * 19 * 3,
    }
    assert flops.count(SIZES, load, {"encoder", "lora"}, checkpointing=False).by_module["lora"] == 6 * 3 * 30
    both = flops.count(SIZES, load, {"audio_projector", "speaker_projector"}, checkpointing=True)
    assert both.model == stage2.model
    padded = 13 * 2 * 20 + 2 * 4 * 6 * 2 * 800 / 2
    assert stage2.hardware - stage2.model == 2 * 11 * 20 + 4 * 6 * 3 * 800 + 3 * padded
    again = 2 * 7 * 30 + attention + 2 * 3 * 30 + 2 * 13 * 60 + 4 * 6 * 2 * 1800
    assert both.hardware - stage2.hardware == again


def test_frames_up_to_a_multiple_are_computed_but_not_of_the_model() -> None:
    load = flops.Load(samples=(10, 20), frames=(30, 10), audio_positions=20, speakers=3, targets=6)
    plain = flops.count(SIZES, load, {"encoder"}, False)
    padded = flops.count(dataclasses.replace(SIZES, frame_multiple=64), load, {"encoder"}, False)
    wide = flops.count(SIZES, dataclasses.replace(load, frames=(64, 64)), {"encoder"}, False)
    assert padded.model == plain.model
    assert padded.hardware == wide.hardware > plain.hardware


def test_a_meter_counts_empty_micro_batches_as_waste() -> None:
    batch = SimpleNamespace(
        cu_seqlens=torch.tensor([0, 9]),
        waveforms=torch.zeros(1, 8000),
        waveform_lengths=torch.tensor([8000]),
        audio_index=range(4),
        speaker_vectors=range(1),
        target_ids=range(2),
        weight=1.0,
    )
    meter = flops.Meter(SIZES, frozenset({"audio_projector"}), False, 1e12)
    once, (model, hardware) = (
        meter.step([batch]),
        meter.step([batch, SimpleNamespace(**{**vars(batch), "weight": 0.0})]),
    )
    assert (model, hardware) == (once[0], 2 * once[1])
    assert meter.share(5e11, 2.0) == 0.25
    assert dataclasses.replace(meter, peak=None).share(5e11, 2.0) is None


@pytest.mark.parametrize(
    ("driver", "name"),
    [
        ("NVIDIA H100 80GB HBM3", "H100-80"),
        ("NVIDIA H100 PCIe", "H100-PCIe"),
        ("NVIDIA A800-SXM4-80GB", "A800-80"),
        ("NVIDIA A100-SXM4-40GB", "A100-40"),
        ("NVIDIA H200", "H200"),
        ("NVIDIA GeForce RTX 4090", "RTX4090"),
    ],
)
def test_cards_by_the_drivers_name(driver: str, name: str) -> None:
    assert card_of_driver(driver) is card(name)


def test_unknown_cards() -> None:
    assert card_of_driver("Tesla T4") is None
    with pytest.raises(ConfigError, match="H100-80"):
        card("T4")
    assert len({c.name for c in CARDS}) == len(CARDS)
