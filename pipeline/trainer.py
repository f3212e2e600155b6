"""The training loop. One loop for all stages; what a stage trains is a row of :mod:`pipeline.stages`.

The loss of a global step is L = Σ token losses / T, T = target tokens of the *whole* step: all ranks, all accumulated
micro-batches. T is known before the first backward pass, because a step is loaded whole. DeepSpeed averages gradients
over N ranks, hence ``backward(sum · N / T, scale_wrt_gas=False)``.
"""

from __future__ import annotations

import hashlib
import json
import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import repeat
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from pipeline import checkpoint
from pipeline.config import Recipe, dump_recipe
from pipeline.engine import Ranks, lr_at, say, set_lr
from pipeline.flops import Meter
from pipeline.meters import Log, LossTable, Status, StepRecord, StepSize, peak_gib, row
from pipeline.resilience import REQUEUE, StopRequest
from shards.errors import TrainingError

if TYPE_CHECKING:
    import torch

MODES = ("asr", "no", "match", "over")


class Step(Protocol):
    """What the trainer needs of one global step: this rank's micro-batches, and where the data go on afterwards."""

    @property
    def micro_batches(self) -> Sequence[Any]: ...

    @property
    def state(self) -> dict[str, Any]: ...


class Data(Protocol):
    """Where batches come from."""

    @property
    def train_names(self) -> Sequence[str]: ...

    @property
    def validation_names(self) -> Sequence[str]: ...

    def train(self, state: dict[str, Any] | None) -> Iterator[Step]:
        """Global steps without end, from the start or from a saved state."""
        ...

    def validation(self) -> Iterator[Sequence[Any]]:
        """The same micro-batches every time; every rank gets as many."""
        ...


@dataclass
class Run:
    """What a checkpoint does not hold: a run's surroundings, built once."""

    recipe: Recipe
    ranks: Ranks
    engine: Any
    data: Data
    stop: StopRequest
    bases: dict[str, str]  # hashes of the weights that this run loaded and does not save
    source: Path | None  # own weights that it started from
    stop_after: int | None = None  # a rehearsal: stop here, saved but not done
    meter: Meter | None = None  # counts operations


class Trainer:
    """One stage, from a fresh engine or a checkpoint to weights and a ``done`` marker."""

    def __init__(self, run: Run) -> None:
        self.run = run
        self.recipe, self.ranks, self.engine = run.recipe, run.ranks, run.engine
        self.settings = run.recipe.trainer
        self.output = Path(run.recipe.output)
        self.table = LossTable(run.data.train_names, MODES)
        self.step, self.plan_state = self._resume()
        self.saved_at = self.step
        self.steps = self._steps()
        self.status = Status(self.settings.max_steps)
        self.logs = self._open_output() if run.ranks.is_first else {}

    # ------------------------------------------------------------------------------------------------------ the loop

    def train(self) -> int:
        """Update until the stage ends or somebody asks to stop; returns the process's exit code."""
        last = min(self.settings.max_steps, self.run.stop_after or self.settings.max_steps)
        if self.step == 0:
            self.validate()
        stopped = False
        while self.step < last and not stopped:
            waited = time.perf_counter()
            batches = next(self.steps)
            waited = time.perf_counter() - waited
            record, stopped = self.update(batches.micro_batches, waited)
            self.step, self.plan_state = self.step + 1, batches.state
            self.log(record)
            if self._due(self.settings.validate_every) and self.step < self.settings.max_steps:
                self.validate()
            if stopped or self.step == last or self._due(self.settings.save_every):
                self.save()
        if self.step < self.settings.max_steps:
            say(self.ranks, f"stopped after step {self.step}; the same command goes on from there")
            return REQUEUE if stopped else 0
        self.finish()
        return 0

    def update(self, batches: Sequence[Any], waited: float) -> tuple[StepRecord, bool]:
        """One optimizer update from this rank's micro-batches of a global step; also whether any rank must stop."""
        import torch

        began = time.perf_counter()
        counts, size = self._count(batches, waited)
        total = sum(counts)
        lr = lr_at(self.step, self.recipe.optimizer, self.settings.max_steps)
        set_lr(self.engine, lr)
        self.engine.module.train()
        sums = self.table.zeros()
        for i, batch in enumerate(batches):
            torch.manual_seed(dropout_seed(self.recipe.seed, self.step, i * self.ranks.world_size + self.ranks.rank))
            loss = self._forward(batch)
            self.engine.backward(loss * (self.ranks.world_size / max(1.0, total)), scale_wrt_gas=False)
            self.table.add(sums, batch, loss.item())
            if i == len(batches) - 1:
                sums = self._sum(sums)
                self._check_finite(sum(sums), batches, "loss")
            self.engine.step()
        norm = float(self.engine.get_global_grad_norm() or 0.0)
        self._check_finite(norm, batches, "gradient norm")
        elapsed = time.perf_counter() - began + size.waited
        share = self.run.meter.share if self.run.meter else lambda *_: None
        record = StepRecord(
            step=self.step + 1,
            loss=sum(sums) / max(1.0, total),
            lr=lr,
            grad_norm=norm,
            targets=int(total),
            positions=int(size.positions),
            audio_seconds=size.audio_seconds,
            seconds=elapsed,
            wait_seconds=size.waited,
            losses=self.table.means(sums, counts),
            model_tflop=size.model_flops / 1e12,
            mfu=share(size.model_flops, elapsed),
            hfu=share(size.hardware_flops, elapsed),
            peak_gib=size.peak_gib,
        )
        return record, size.stops > 0

    def validate(self) -> None:
        """Loss per dataset and mode over the fixed validation set."""
        import torch

        names = self.run.data.validation_names
        if not names:
            return
        began = time.perf_counter()
        table = LossTable(names, MODES)
        sums, counts = table.zeros(), table.zeros()
        self.engine.module.eval()
        with torch.no_grad():
            for batches in self.run.data.validation():
                for batch in batches:
                    table.add(sums, batch, self._forward(batch).item())
                    table.add(counts, batch, batch.num_targets)
        sums, counts = self._sum(sums), self._sum(counts)
        losses = table.means(sums, counts)
        mean = sum(sums) / max(1.0, sum(counts))
        if self.ranks.is_first:
            seconds = round(time.perf_counter() - began, 3)
            self.logs["validation"].write({"step": self.step, "loss": mean, "losses": losses, "seconds": seconds})
        shown = "  ".join(f"{name} {value:.4f}" for name, value in losses.items())
        say(self.ranks, f"validation at step {self.step}: loss {mean:.4f}  {shown}")

    def log(self, record: StepRecord) -> None:
        """One line in train.jsonl; every log_every steps a status line."""
        if not self.ranks.is_first:
            return
        self.logs["train"].write(row(record))
        self.status.add(record)
        if record.step % self.settings.log_every == 0 or record.step == self.settings.max_steps:
            say(self.ranks, self.status.line())

    def save(self) -> None:
        """A checkpoint of the state after the current step, unless there is one already."""
        if self.saved_at == self.step:
            return
        plan = dict(self.plan_state or {})
        if "replaced" in plan:  # each rank knows what it replaced
            plan["replaced"] = checkpoint.merged(self.ranks, plan["replaced"])
        state = checkpoint.RunState(self.recipe.stage, self.step, plan, self.run.bases, dump_recipe(self.recipe))
        path = checkpoint.save(self._checkpoints, self.engine, self.ranks, state, self.settings.keep_last)
        self.saved_at = self.step
        say(self.ranks, f"saved {path}")

    def finish(self) -> None:
        """Validation, weights, and last of all the ``done`` marker."""
        self.validate()
        path = self.output / "weights" / "model.safetensors"
        metadata = {"format": "pt", "bases": json.dumps(self.run.bases, sort_keys=True)}
        digest = checkpoint.save_weights(path, self.engine, self.ranks, self.run.source, metadata)
        if self.ranks.is_first:
            done = {"stage": self.recipe.stage, "step": self.step, "weights_sha256": digest, "bases": self.run.bases}
            checkpoint.write_done(self.output, done)
        say(self.ranks, f"stage {self.recipe.stage} is done: {path}")

    # ------------------------------------------------------------------------------------------------------- details

    @property
    def _checkpoints(self) -> Path:
        return self.output / "checkpoints"

    def _resume(self) -> tuple[int, dict[str, Any] | None]:
        found = checkpoint.newest_whole(
            self._checkpoints, self.ranks, warn=lambda text: say(self.ranks, f"WARNING {text}")
        )
        if found is None:
            return 0, None
        state = checkpoint.load(found, self.engine, self.ranks, self.recipe.stage, self.run.bases)
        say(self.ranks, f"resumed from {found} (step {state.step})")
        return state.step, state.plan

    def _open_output(self) -> dict[str, Log]:
        """The run's folder with its resolved recipe and its logs."""
        self.output.mkdir(parents=True, exist_ok=True)
        checkpoint.write_atomic(self.output / "config.yaml", dump_recipe(self.recipe))
        return {name: Log(self.output / f"{name}.jsonl", self.step) for name in ("train", "validation")}

    def _steps(self) -> Iterator[Step]:
        steps = iter(self.run.data.train(None if self.settings.overfit_one_batch else self.plan_state))
        return repeat(next(steps)) if self.settings.overfit_one_batch else steps

    def _due(self, every: int) -> bool:
        return self.step % every == 0

    def _forward(self, batch: Any) -> torch.Tensor:
        """Sum of the token losses of one micro-batch."""
        loss: torch.Tensor = self.engine(**batch.to(self.ranks.device).model_inputs()).loss
        return loss

    def _count(self, batches: Sequence[Any], waited: float) -> tuple[list[float], StepSize]:
        """What the whole step holds, over all ranks, and whether anybody must stop. One all-reduce."""
        counts = self.table.zeros()
        for b in batches:
            self.table.add(counts, b, b.num_targets)
        operations = self.run.meter.step(batches) if self.run.meter else (0.0, 0.0)
        size = [sum(b.num_positions for b in batches), sum(b.audio_seconds for b in batches), *operations]
        added = [*counts, *size, float(self.run.stop.is_set)]
        places = [0.0] * (2 * self.ranks.world_size)  # a place a rank, so that a sum tells the largest
        places[self.ranks.rank :: self.ranks.world_size] = waited, peak_gib()
        everyone = self._sum([*added, *places])
        waits, peaks = everyone[len(added) :][: self.ranks.world_size], everyone[-self.ranks.world_size :]
        return everyone[: len(counts)], StepSize(*[*everyone[len(counts) : len(added)], max(waits), max(peaks)])

    def _sum(self, values: Sequence[float]) -> list[float]:
        """Sums over all ranks."""
        import torch

        tensor = torch.tensor(values, dtype=torch.float64, device=self.ranks.device)
        torch.distributed.all_reduce(tensor)
        return [float(v) for v in tensor.tolist()]

    def _check_finite(self, value: float, batches: Sequence[Any], what: str) -> None:
        if not math.isfinite(value):
            keys = [key for b in batches for key in b.keys]
            raise TrainingError(
                f"{what} of step {self.step + 1} is {value}; this rank's samples: {', '.join(keys[:20])}. "
                "The last checkpoint is not touched; look at these samples, or lower optimizer.peak_lr"
            )


def dropout_seed(seed: int, step: int, micro_batch: int) -> int:
    """Seed of the dropout masks of the m-th micro-batch of a step: no state to save, the same on any world size."""
    digest = hashlib.blake2b(f"dropout {seed} {step} {micro_batch}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1
