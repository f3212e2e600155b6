"""Exports of runs on thinkers: transformers' own classes load them and say what the run says."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from pipeline.checkpoint.final_weights import write_done
from pipeline.export.folder import export
from pipeline.model.build import load_finished_run
from pipeline.model.thinker import build_thinker, thinker_class
from pipeline.stages import Base
from shards.errors import CheckpointError, ConfigError
from tests.support.finished_runs import make_finished_run
from tests.support.thinkers import make_thinker, thinker_config

BASES = [Base.QWEN2_5_OMNI, Base.QWEN3_OMNI]


@pytest.fixture(scope="module", params=BASES)
def run(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of stage 11 with LoRA that changes something."""
    folder = tmp_path_factory.mktemp("run")
    base = make_thinker(folder / request.param, request.param)
    return make_finished_run(folder / "run", thinker_config(base, request.param), stage=11)


def inputs(model: Any) -> dict[str, torch.Tensor]:
    """A question with an audio in it, as transformers takes it."""
    conf = model.config
    pad = getattr(conf, "audio_token_id", None) or conf.audio_token_index
    frames = 130
    made = torch.ones(1, frames, dtype=torch.long)
    positions = {"Qwen2_5OmniThinkerConfig": 32, "Qwen3OmniMoeThinkerConfig": 17}[type(conf).__name__]
    ids = torch.tensor([[5, 6, *[pad] * positions, 7, 8, 9]])
    features = torch.randn(1, 128, frames, generator=torch.Generator().manual_seed(3))
    mask = torch.ones_like(ids)
    return {"input_ids": ids, "attention_mask": mask, "input_features": features, "feature_attention_mask": made}


@torch.no_grad()
def logits(model: Any) -> torch.Tensor:
    out: torch.Tensor = model.eval()(**inputs(model)).logits
    return out


def test_transformers_loads_the_folder_with_the_runs_logits(run: Path, tmp_path: Path) -> None:
    model, _, recipe = load_finished_run(run)
    out = export(run, tmp_path / "out", merge=True, largest=300_000)
    cls = thinker_class(Base(recipe.model.base))
    loaded, info = cls.from_pretrained(str(out), output_loading_info=True)
    assert not any(info[what] for what in ("missing_keys", "mismatched_keys", "unexpected_keys"))
    plain = cls.from_pretrained(recipe.model.llm.checkpoint)
    torch.testing.assert_close(logits(loaded), logits(model.llm), rtol=1e-4, atol=1e-3)
    assert (logits(loaded) - logits(plain)).abs().max() > 0.1
    assert len(list(out.glob("*.safetensors"))) > 1
    theirs = json.loads((Path(recipe.model.llm.checkpoint) / "config.json").read_text())
    assert json.loads((out / "config.json").read_text()) == theirs


def test_peft_loads_the_adapter_alone(run: Path, tmp_path: Path) -> None:
    from peft import PeftModel

    model, _, recipe = load_finished_run(run)
    out = export(run, tmp_path / "out", merge=True)
    plain = thinker_class(Base(recipe.model.base)).from_pretrained(recipe.model.llm.checkpoint)
    adapted = PeftModel.from_pretrained(plain, str(out / "adapter"))
    torch.testing.assert_close(logits(adapted), logits(model.llm), rtol=1e-4, atol=1e-3)


def test_an_export_is_a_base_again_and_has_a_card(run: Path, tmp_path: Path) -> None:
    _, _, recipe = load_finished_run(run)
    out = export(run, tmp_path / "mine", merge=True, dtype="bfloat16")
    again = build_thinker(thinker_config(out, recipe.model.base), dtype=torch.bfloat16)
    assert {p.dtype for p in again.llm.parameters()} == {torch.bfloat16}
    card = (out / "README.md").read_text()
    assert "# mine" in card
    assert type(again.llm).__name__ in card


def test_what_cannot_be_exported_is_an_error(run: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="--merge"):
        export(run, tmp_path / "out")
    done = json.loads((run / "done").read_text())
    try:
        write_done(run, {**done, "weights_sha256": "0"})
        with pytest.raises(CheckpointError, match="changed or damaged"):
            export(run, tmp_path / "out", merge=True)
    finally:
        write_done(run, done)
    assert not (tmp_path / "out").exists()
