"""The largest micro-batch, executed: on 1 to N ranks of this machine, through the engine that trains.

Every rank runs the same micro-batch, several times, with an optimizer update after each; nothing is saved.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pipeline.flops import Load
from pipeline.recipe.schema import Recipe
from pipeline.recipe.shipped import CHECKOUT
from shards.errors import TrainingError

STEPS = 3  # timed, after one that is not


def start_ranks(module: str, arguments: Sequence[str], ranks: int, timeout: float = 3600.0) -> dict[str, Any]:
    """A module with these arguments and ``--result FILE`` on so many ranks; what they measured.

    Raises:
        TrainingError: a rank failed; holds the end of what it said.
    """
    with tempfile.TemporaryDirectory(prefix="speakerlm-preflight-") as folder:
        result = Path(folder) / "result.json"
        launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={ranks}"]
        command = [*launcher, "-m", module, *arguments, "--result", str(result)]
        path = os.pathsep.join(filter(None, (str(CHECKOUT), os.environ.get("PYTHONPATH"))))
        env = os.environ | {"PYTHONPATH": path}  # installed from a wheel, `pipeline` is on no other path
        done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=timeout, env=env)
        if done.returncode or not result.exists():
            ranks_words = (done.stdout + done.stderr).split("Sending process")[0]  # behind it is the launcher's summary
            lines = ranks_words.splitlines()
            said = "\n".join([line for line in lines if line.startswith("[rank")][-25:] or lines[-25:])
            raise TrainingError(f"{module} did not run on {ranks} ranks:\n{said}")
        return dict(json.loads(result.read_text()))


def measure(recipe: Recipe, batch: Any, load: Load, result: Path) -> None:
    """In a rank: build, run, and let rank 0 write the largest figures of all ranks.

    Args:
        batch: arguments of the model's forward, or None: noise of the shape of ``load``.
    """
    import torch

    from pipeline.preflight.memory import inputs_of
    from pipeline.ranks.launch import init_distributed
    from pipeline.recipe.deepspeed import resolve_deepspeed
    from pipeline.train.engine import initialize
    from pipeline.train.run_stage import build

    ranks = init_distributed(recipe.trainer.timeout_seconds)
    ds_config = resolve_deepspeed(recipe, ranks.world_size) | {"gradient_accumulation_steps": 1}
    ds_config["train_batch_size"] = ranks.world_size
    gauge = _Gauge(ranks.device)
    with gauge:
        model, *_ = build(recipe, ds_config, ranks, None)
        engine = initialize(model, ds_config, recipe.optimizer.lr_factors)
        if batch is None:
            vocabulary = model.llm.config.get_text_config().vocab_size
            batch = inputs_of(load, model, str(ranks.device), vocabulary)
        _step(engine, batch)
        gauge.mark()
        loss = _step(engine, batch)
    seconds = []
    for _ in range(STEPS):
        gauge.wait()
        began = time.perf_counter()
        _step(engine, batch)
        gauge.wait()
        seconds.append(time.perf_counter() - began)
    figures = torch.tensor([gauge.states, gauge.peak, gauge.reserved, sorted(seconds)[STEPS // 2]], dtype=torch.float64)
    figures = figures.to(ranks.device)
    torch.distributed.all_reduce(figures, op=torch.distributed.ReduceOp.MAX)
    if ranks.is_first:
        names = ("states", "peak", "reserved", "step_seconds")
        out = dict(zip(names, figures.tolist(), strict=True))
        result.write_text(json.dumps(out | {"ranks": ranks.world_size, "loss": loss}))
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()


def _step(engine: Any, batch: dict[str, Any]) -> float:
    out = engine(**batch)
    engine.backward(out.loss / max(1, out.num_targets or 1), scale_wrt_gas=False)
    engine.step()
    return float(out.loss.detach())


class _Gauge:
    """Bytes of tensors: by CUDA's allocator on a GPU, by LiveBytes elsewhere."""

    def __init__(self, device: Any) -> None:
        from pipeline.preflight.live_memory import LiveBytes

        self.device = device
        self.states = self.peak = self.reserved = 0
        self._live = None if device.type == "cuda" else LiveBytes()

    def __enter__(self) -> _Gauge:
        if self._live is not None:
            self._live.__enter__()
        return self

    def mark(self) -> None:
        """From here on is what a step adds."""
        import torch

        self.wait()
        if self._live is not None:
            self.states, self._live.peak = self._live.now, self._live.now
        else:
            torch.cuda.empty_cache()
            self.states = torch.cuda.memory_allocated()
            torch.cuda.reset_peak_memory_stats()

    def __exit__(self, *error: Any) -> None:
        import torch

        from pipeline.ranks.memory import peak_bytes

        if self._live is not None:
            self._live.__exit__(*error)
            self.peak, self.reserved = self._live.peak, peak_bytes(reserved=True)
        else:
            self.peak, self.reserved = torch.cuda.max_memory_allocated(), torch.cuda.max_memory_reserved()

    def wait(self) -> None:
        """For the device."""
        import torch

        if self._live is None:
            torch.cuda.synchronize()
