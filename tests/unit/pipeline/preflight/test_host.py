"""The host's term: by hand, and measured with a tiny recipe."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pipeline.model.modeling_speakerlm import SpeakerLMForConditionalGeneration
from pipeline.preflight.host import HostSeconds, host_seconds, narrow_config, narrow_zero
from pipeline.preflight.shapes import empty_model
from pipeline.recipe.load import load_recipe, save_recipe
from pipeline.recipe.shipped import CHECKOUT
from pipeline.stages import Checkpointing
from tests.support.training import make_parts, tiny_recipe

STAGE4 = CHECKOUT / "launch" / "recipes" / "speakerlm-7b" / "stage4.yaml"


def test_a_step_by_hand() -> None:
    """70 blocks, 30 layers: recomputing every second layer is 15 of 100, the encoder 70."""
    host = HostSeconds({2: 1.0, 3: 4.0}, {2: 0.5, 3: 2.0}, {2: 0.1, 3: 0.2}, blocks=70, layers=30)
    assert host.step(2, Checkpointing(), 1) == pytest.approx(1.1)
    assert host.step(1, Checkpointing(), 3) == pytest.approx(3.1)
    assert host.step(3, Checkpointing(encoder=True, llm_every=1), 1) == pytest.approx(6.2)
    assert host.step(3, Checkpointing(encoder=True, llm_every=2), 2) == pytest.approx(2 * (4 + 2 * 0.85) + 0.2)


def test_the_narrow_model_has_the_modules_of_the_wide_one() -> None:
    wide, _ = empty_model(load_recipe(STAGE4).model, "float32")
    narrow: Any = SpeakerLMForConditionalGeneration(narrow_config(wide.config))
    assert [n for n, _ in narrow.named_parameters()] == [n for n, _ in wide.named_parameters()]
    assert sum(1 for _ in narrow.modules()) == sum(1 for _ in wide.modules())
    assert sum(p.numel() for p in narrow.parameters()) < 10**7


def test_the_same_tensors_stay_whole() -> None:
    zero = {
        "stage": 3, "stage3_param_persistence_threshold": 100_000, "stage3_prefetch_bucket_size": 50_000_000,
        "offload_param": {"device": "cpu"}, "overlap_comm": True,
    }  # fmt: skip
    out = narrow_zero(zero, real=[50_000_000, 4000, 90_000, 200_000], narrow=[8000, 64, 300, 256])
    assert out["stage3_param_persistence_threshold"] == 255  # of the two that cannot be told apart, neither stays whole
    assert out["stage3_prefetch_bucket_size"] == 8568  # in proportion, and even
    assert "offload_param" not in out
    assert out["overlap_comm"] is True


def test_measured(tmp_path: Path) -> None:
    make_parts(tmp_path)
    save_recipe(tiny_recipe(tmp_path, tmp_path / "run", stage=1), tmp_path / "recipe.yaml")
    host = host_seconds([str(tmp_path / "recipe.yaml"), "seed=3"], 1)
    assert min(*host.micro_batch.values(), *host.update.values()) > 0
    assert host.micro_batch[3] > host.micro_batch[2]  # its hooks
    assert host.layers >= 1
