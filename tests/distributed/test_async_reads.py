"""Reads of a step: copies enqueued before the update, and no read that waits for the update."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.support.distributed import run_distributed

READS = ("item", "tolist", "cpu", "numpy", "__bool__", "__float__", "__int__", "__index__")


def watch(happened: list[str]) -> None:
    """Every read of a tensor's value by a file of ``pipeline`` is written down as ``file:method``."""
    import torch

    def watched(name: str, plain: Callable[..., Any]) -> Callable[..., Any]:
        def read(*args: Any, **kwargs: Any) -> Any:
            caller = Path(sys._getframe(1).f_code.co_filename)
            if caller.parent.name in ("train", "ranks"):
                happened.append(f"{caller.stem}:{name}")
            return plain(*args, **kwargs)

        return read

    for name in READS:
        setattr(torch.Tensor, name, watched(name, getattr(torch.Tensor, name)))


def steps_of(deepspeed: str, folder: str) -> None:
    """Three steps, the second of them with a loss that is not finite; what each reads, and when."""
    import torch

    from pipeline.ranks.launch import init_distributed
    from pipeline.train.async_reads import HostCopy
    from tests.support.toy import toy_recipe, toy_trainer

    ranks = init_distributed(60)
    trainer = toy_trainer(toy_recipe(Path(folder), deepspeed=deepspeed, log_every=100), ranks)
    happened: list[str] = []
    watch(happened)
    copy = HostCopy.__init__

    def copied(self: Any, tensor: torch.Tensor) -> None:
        happened.append("norm" if tensor.numel() == 1 and tensor.dim() == 0 else "losses")
        copy(self, tensor)

    HostCopy.__init__ = copied  # type: ignore[method-assign]
    inner = trainer.engine.optimizer.optimizer
    inner.register_step_post_hook(lambda *_: happened.append("update"))
    backward = trainer.engine.backward
    trainer.engine.backward = lambda *a, **k: (happened.append("backward"), backward(*a, **k))[1]
    for number in range(3):
        batches = next(trainer.steps).micro_batches
        if number == 1:
            batches[0].frames.fill_(math.nan)
        happened.clear()
        record, _ = trainer.update(batches, 0.0)
        reads = [h for i, h in enumerate(happened) if h != "update" or "update" not in happened[:i]]
        start = ["collectives:tolist", "backward", "losses", "backward"]
        if number == 1:
            assert record.skipped
            assert reads[:5] == [*start, "async_reads:tolist"], reads  # suspects are also read
            assert "norm" not in reads
        else:
            assert reads == [*start, "norm", "update", "async_reads:tolist", "async_reads:tolist"], reads
            assert record.grad_norm == float(trainer.engine.get_global_grad_norm()) > 0
        trainer.step += 1
        happened.clear()
        trainer.log(record, {})
        assert happened == [], "a log line reads what the step has read already"


@pytest.mark.parametrize("deepspeed", ["zero3_cpu", "zero3", "zero2"])
def test_a_step_reads_copies_made_before_the_update(deepspeed: str, tmp_path: Path) -> None:
    run_distributed(steps_of, 2, deepspeed=f"ds_configs/{deepspeed}.json", folder=str(tmp_path))
