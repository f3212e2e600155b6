"""Checkpoints written by one process with a dict for an engine."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from pipeline.checkpoint import format as checkpoint
from pipeline.checkpoint.format import RunState
from pipeline.checkpoint.mirror import Mirror
from pipeline.checkpoint.saver import Retention, Saver
from pipeline.ranks.launch import Ranks

ALONE = Ranks(0, 1, 0, torch.device("cpu"))


@pytest.fixture(scope="module", autouse=True)
def one_process() -> Iterator[None]:
    """A process group of one."""
    torch.distributed.init_process_group("gloo", store=torch.distributed.HashStore(), rank=0, world_size=1)
    yield
    torch.distributed.destroy_process_group()


@pytest.fixture(autouse=True)
def engine_of_tensors(monkeypatch: pytest.MonkeyPatch) -> None:
    def slices(engine: dict[str, torch.Tensor], rank: int, world_size: int) -> object:
        for name, tensor in engine.items():
            for kind in ("master", "exp_avg", "exp_avg_sq"):
                yield name, kind, 0, tensor.clone()

    monkeypatch.setattr(checkpoint, "read_slices", slices)


def saver(folder: Path, keep: Retention | None = None, background: str = "never", upload: str | None = None) -> Saver:
    return Saver(folder, ALONE, keep or Retention(3), background, Mirror(upload) if upload else None, 30)


def state(step: int, loss: float | None = None) -> RunState:
    return RunState(4, step, {"next": step}, {"llm": "abc"}, "name: x\n", validation={"loss": loss})
