"""The weights that a stage leaves."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from pipeline.checkpoint.final_weights import save_weights
from pipeline.checkpoint.format import file_digest
from pipeline.ranks.launch import Ranks
from shards.errors import CheckpointError

ALONE = Ranks(0, 1, 0, torch.device("cpu"))


class Engine:
    """Of a stage that trains the encoder; gathered as it is."""

    def __init__(self) -> None:
        self.module = torch.nn.ModuleDict({"encoder": torch.nn.Linear(2, 1), "audio_projector": torch.nn.Linear(2, 1)})
        self.module["audio_projector"].requires_grad_(False)


@pytest.fixture(autouse=True)
def whole(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.checkpoint.final_weights.gather_parameter", lambda p, master: p.detach())


def test_untrained_weights_are_copied_from_the_previous_stage(tmp_path: Path) -> None:
    source, engine = tmp_path / "before.safetensors", Engine()
    before = {name: torch.full_like(p, 7.0) for name, p in engine.module.named_parameters()}
    save_file(before, source)
    bases = {"init_from": file_digest(source)["sha256"]}
    digest = save_weights(tmp_path / "w" / "model.safetensors", engine, ALONE, source, bases)
    found = load_file(tmp_path / "w" / "model.safetensors")
    assert digest == file_digest(tmp_path / "w" / "model.safetensors")["sha256"]
    assert found["audio_projector.weight"].tolist() == [[7.0, 7.0]]
    assert torch.equal(found["encoder.weight"], engine.module["encoder"].weight)
    with safe_open(tmp_path / "w" / "model.safetensors", "pt") as file:
        assert bases["init_from"] in file.metadata()["bases"]


def test_changed_source_weights_are_refused(tmp_path: Path) -> None:
    """The stage before was trained on meanwhile: its new weights do not go with what this stage has learned."""
    source, engine = tmp_path / "before.safetensors", Engine()
    save_file({name: p.detach() for name, p in engine.module.named_parameters()}, source)
    bases = {"init_from": file_digest(source)["sha256"]}
    save_file({name: p.detach() + 1 for name, p in engine.module.named_parameters()}, source)
    with pytest.raises(CheckpointError, match=r"before\.safetensors has changed since this stage started.*restore it"):
        save_weights(tmp_path / "w" / "model.safetensors", engine, ALONE, source, bases)
    assert not (tmp_path / "w").exists()
