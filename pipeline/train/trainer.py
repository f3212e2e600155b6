"""The training loop. One loop for all stages; what a stage trains is a row of :mod:`pipeline.stages`.

The loss of a global step is L = Σ token losses / T, T = target tokens of the *whole* step: all ranks, all accumulated
micro-batches. T is known before the first backward pass, because a step is loaded whole. DeepSpeed averages gradients
over N ranks, hence ``backward(sum · N / T, scale_wrt_gas=False)``.
"""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Iterator, Sequence
from itertools import repeat
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.checkpoint import final_weights as finished
from pipeline.checkpoint import format as checkpoint
from pipeline.checkpoint.mirror import newest_anywhere, open_upload
from pipeline.checkpoint.saver import Retention, Saver
from pipeline.ranks.collectives import all_reduce_sum, any_rank, gather_unique, host_group
from pipeline.ranks.launch import say
from pipeline.ranks.stop import REQUEUE
from pipeline.ranks.watchdog import OwnTime
from pipeline.recipe.load import dump_recipe
from pipeline.train.async_reads import GradientNorm, Taken
from pipeline.train.engine import lr_at, set_lr
from pipeline.train.gradients import module_norms
from pipeline.train.monitors import Monitors
from pipeline.train.run import Run, Step
from pipeline.train.spikes import Health, save_batch, suspects
from pipeline.train.train_log import Log, LossTable, Status, StepRecord, StepSize, finite, peak_gib, row
from pipeline.train.validation import MODES, Validation, figures
from shards.errors import TrainingError

if TYPE_CHECKING:
    import torch

MOST_SUSPECTS = 16  # micro-batches of one step that are listed


class Trainer:
    """One stage, from a fresh engine or a checkpoint to weights and a ``done`` marker."""

    def __init__(self, run: Run) -> None:
        self.run = run
        self.recipe, self.ranks, self.engine = run.recipe, run.ranks, run.engine
        self.settings = t = run.recipe.trainer
        self.output = Path(run.recipe.output)
        self.table = LossTable(run.data.train_names, MODES)
        self.hosts = host_group(max(t.start_timeout_seconds, t.timeout_seconds) + 60)
        self.upload = open_upload(t.upload, self.output)
        keep = Retention(t.keep_last, t.keep_best, t.keep_every, t.best_by)
        limit = t.start_timeout_seconds
        self.saver = Saver(self._checkpoints, run.ranks, keep, t.save_in_background, self.upload, limit)
        self.norm, self.health = GradientNorm(run.engine), Health()
        self.validated: tuple[int, dict[str, float | None]] | None = None  # step and figures of the last validation
        self.step, self.plan_state = self._resume()
        self.saved_at, self.finished = self.step, False
        self.steps = self._steps()
        self.validation = Validation(run)
        self.monitors = Monitors(run.recipe, run.ranks, self.step)
        self.clock = OwnTime(run.ranks)
        self.status = Status(t.max_steps)
        self.logs = self._open_output() if run.ranks.is_first else {}

    # ------------------------------------------------------------------------------------------------------ the loop

    def train(self) -> int:
        """Update until the stage ends or somebody asks to stop; returns the process's exit code."""
        code = self._updates()
        return code if self.saver.finish_copies(self.run.stop, self.run.watchdog.beat) else REQUEUE

    def _updates(self) -> int:
        last = min(self.settings.max_steps, self.run.stop_after or self.settings.max_steps)
        stopped = any_rank(self.ranks, self.run.stop.is_set) or (self._validation_due() and self.validate())
        while self.step < last and not stopped:
            batches, waited = self._next()
            if batches is None:
                return self._end_of_data()
            record, stopped = self.update(batches.micro_batches, waited)
            self.step, self.plan_state = self.step + 1, batches.state
            self.log(record, batches.figures)
            if self._validation_due() and not stopped:
                stopped = self.validate()
            due = self.step % self.settings.save_every == 0 or batches.state.get("epoch_ended")
            if stopped or self.step == last or due:
                self.save()
        self.saver.wait()
        if stopped or self.step < self.settings.max_steps:
            say(self.ranks, f"stopped after step {self.step}; the same command goes on from there")
            return REQUEUE if stopped else 0
        return self.finish()

    def update(self, batches: Sequence[Any], waited: float) -> tuple[StepRecord, bool]:
        """One optimizer update from this rank's micro-batches of a global step; also whether any rank must stop."""
        import torch

        began = time.perf_counter()
        counts, size = self._count(batches, waited)
        self.run.watchdog.beat(f"step {self.step + 1}")
        total = sum(counts)
        lr = lr_at(self.step, self.recipe.optimizer, self.settings.max_steps)
        set_lr(self.engine, lr)
        if not self.engine.module.training:  # it walks through every module, and only validation has changed it
            self.engine.module.train()
        losses: list[torch.Tensor] = []
        for i, batch in enumerate(batches):
            torch.manual_seed(self._seed(i))
            loss = self._forward(batch)
            losses.append(loss.detach())
            scaled = loss * (self.ranks.world_size / max(1.0, total))
            if i == len(batches) - 1:
                row = Taken(self._loss_row(batches, losses))
                scaled = scaled * (1 + 0 * row.tensor.sum()).to(scaled.dtype)  # NaN on any rank: all skip
            self.engine.backward(scaled, scale_wrt_gas=False)
            by_module = self._module_norms() if i == len(batches) - 1 else {}
            self.engine.step()
        applied = self.engine.was_step_applied()
        norm = self.norm.read() if applied else math.nan
        sums = row.numbers()
        mean = sum(sums) / max(1.0, total)
        self._judge(mean, norm, applied, batches, losses)
        self.run.watchdog.beat("loading data", warm=True)
        elapsed = time.perf_counter() - began + size.waited
        share = self.run.meter.share if self.run.meter else lambda *_: None
        record = StepRecord(
            step=self.step + 1,
            loss=mean,
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
            skipped=not applied,
            own_seconds=self.clock.laps,
            save_seconds=self.saver.take_stalled(),
            module_norms=by_module,
        )
        return record, size.stops > 0

    def validate(self, final: bool = False) -> bool:
        """What the weights are worth now, into ``validation.jsonl``. Returns whether somebody asked to stop meanwhile.

        A stop gives it up: the batch system does not wait for long. The resumed run does it again.
        """
        self.clock.forget()
        row = self.validation.run(self.step, final)
        if row is None:
            return True
        row = finite(row)
        self.validated = self.step, figures(row)
        self._write("validation", row)
        self.monitors.validation(row)
        return False

    def log(self, record: StepRecord, figures: dict[str, Any]) -> None:
        """One line in train.jsonl; every log_every steps a status line, and the rank that lags, if there is one."""
        line = row(record) | {"data": figures}
        self._write("train", line)
        self.status.add(record)
        if self._logged(record.step):
            say(self.ranks, self.status.line())
            self.monitors.train(line)
            if slow := self.clock.straggler():
                say(self.ranks, f"WARNING {slow}")
                self._write("events", {"step": self.step, "event": "straggler", "what": slow})

    def save(self) -> None:
        """A checkpoint of the state after the current step, unless there is one already."""
        if self.saved_at == self.step:
            return
        plan = dict(self.plan_state or {})
        if "replaced" in plan:  # each rank knows what it replaced
            plan["replaced"] = gather_unique(self.ranks, plan["replaced"])
        state = checkpoint.RunState(
            stage=self.recipe.stage,
            step=self.step,
            plan=plan,
            bases=self.run.bases,
            recipe=dump_recipe(self.recipe),
            health=self.health.state_dict(),
            validation=self.validated[1] if self.validated and self.validated[0] == self.step else None,
        )
        self.clock.forget()
        self.run.watchdog.beat("saving")
        self.saver.save(self.engine, state)
        self.run.watchdog.beat("loading data")
        self.saved_at = self.step

    def finish(self) -> int:
        """Validation, weights, and last of all the ``done`` marker. Exit code."""
        if self.run.data.validation_names and self.validate(final=True):
            return REQUEUE
        self.run.watchdog.beat("writing the weights", warm=False)
        path = self.output / "weights" / "model.safetensors"
        digest = finished.save_weights(path, self.engine, self.ranks, self.run.source, self.run.bases)
        if self.ranks.is_first:
            done = {"stage": self.recipe.stage, "step": self.step, "weights_sha256": digest, "bases": self.run.bases}
            finished.write_done(self.output, done)
        self.finished = True
        say(self.ranks, f"stage {self.recipe.stage} is done: {path}")
        return 0

    # ------------------------------------------------------------------------------------------------------- details

    @property
    def _checkpoints(self) -> Path:
        return self.output / "checkpoints"

    def _resume(self) -> tuple[int, dict[str, Any] | None]:
        def warn(text: str) -> None:
            say(self.ranks, f"WARNING {text}")

        found = newest_anywhere(self._checkpoints, self.ranks, self.upload, warn)
        if found is None:
            return 0, None
        state = checkpoint.load(found, self.engine, self.ranks, self.recipe, self.run.bases, warn)
        self.health = Health.from_state(state.health)
        if state.validation is not None:
            self.validated = state.step, state.validation
        say(self.ranks, f"resumed from {found} (step {state.step})")
        return state.step, state.plan

    def _end_of_data(self) -> int:
        """Every dataset has gone through the epochs that its recipe gives it."""
        say(self.ranks, f"the data have ended after step {self.step}, before trainer.max_steps: no dataset goes on")
        self.save()
        self.saver.wait()
        return self.finish()

    def _open_output(self) -> dict[str, Log]:
        """The run's folder with its resolved recipe and its logs."""
        self.output.mkdir(parents=True, exist_ok=True)
        checkpoint.write_atomic(self.output / "config.yaml", dump_recipe(self.recipe))
        return {name: Log(self.output / f"{name}.jsonl", self.step) for name in ("train", "validation", "events")}

    def _logged(self, step: int) -> bool:
        """Whether a step gets a status line."""
        return step % self.settings.log_every == 0 or step == self.settings.max_steps

    def _module_norms(self) -> dict[str, float]:
        wanted = self.settings.module_norms and self._logged(self.step + 1)
        wanted = wanted and not self.engine.zero_round_robin_gradients()  # DeepSpeed mixes up whose gradient is whose
        return module_norms(self.engine, self.ranks) if wanted else {}

    def _write(self, log: str, line: dict[str, Any]) -> None:
        if self.ranks.is_first:
            self.logs[log].write(line)

    def _steps(self) -> Iterator[Step]:
        steps = iter(self.run.data.train(None if self.settings.overfit_one_batch else self.plan_state))
        return repeat(next(steps)) if self.settings.overfit_one_batch else steps

    def _next(self) -> tuple[Step | None, float]:
        """This rank's part of the next global step, None where the data have ended, and how long it was waited for."""
        began = time.perf_counter()
        return next(self.steps, None), time.perf_counter() - began

    def _validation_due(self) -> bool:
        """Before the first step and every validate_every; the last one is :meth:`finish`'s."""
        due = self.step % self.settings.validate_every == 0 and self.step < self.settings.max_steps
        return due and bool(self.run.data.validation_names) and (self.validated or (-1,))[0] != self.step

    def _seed(self, i: int) -> int:
        """For the dropout of this rank's i-th micro-batch of the step."""
        return dropout_seed(self.recipe.seed, self.step, i * self.ranks.world_size + self.ranks.rank)

    def _forward(self, batch: Any) -> torch.Tensor:
        """Sum of the token losses of one micro-batch."""
        loss: torch.Tensor = self.engine(**batch.to(self.ranks.device, non_blocking=True).model_inputs()).loss
        return loss

    def _count(self, batches: Sequence[Any], waited: float) -> tuple[list[float], StepSize]:
        """Target tokens per cell of the loss table and what else the whole step holds, over all ranks. One all-reduce.

        Raises:
            CheckpointError: a save in the background has failed.
        """
        counts = self.table.zeros()
        for b in batches:
            self.table.add(counts, b, b.num_targets)
        operations = self.run.meter.step(batches) if self.run.meter else (0.0, 0.0)
        size = [sum(b.num_positions for b in batches), sum(b.audio_seconds for b in batches), *operations]
        added = [*counts, *size, float(self.run.stop.is_set), float(self.saver.failed)]
        n, ranks = len(added), self.ranks.world_size
        places = [0.0] * (3 * ranks)  # a place a rank, so that a sum tells the largest
        places[self.ranks.rank :: ranks] = waited, peak_gib(), self.clock.lap()
        everyone = all_reduce_sum(self.ranks, [*added, *places], self.hosts)
        waits, peaks, own = (everyone[n + i * ranks :][:ranks] for i in range(3))
        self.clock.start(own)
        step_size = StepSize(*[*everyone[len(counts) : n], max(waits), max(peaks)])
        if step_size.failed_saves:
            self.saver.wait()  # raises what went wrong
        return everyone[: len(counts)], step_size

    def _loss_row(self, batches: Sequence[Any], losses: Sequence[torch.Tensor]) -> torch.Tensor:
        """Sums of token losses over all ranks, a cell of the loss table each; stays on the device."""
        import torch

        row = torch.zeros(len(self.table.cells), dtype=torch.float64, device=self.ranks.device)
        for batch, loss in zip(batches, losses, strict=True):
            if batch.weight > 0:
                row[self.table.place(batch)] += loss
        with self.clock.waiting():
            torch.distributed.all_reduce(row)
        return row

    def _judge(
        self, loss: float, norm: float, applied: bool, batches: Sequence[Any], losses: Sequence[torch.Tensor]
    ) -> None:
        """Count the step; report one that was skipped or leaps, and stop after too many skipped in a row."""
        verdict = self.health.judge(loss, norm, applied)
        if verdict is None:
            return
        step, suspected = self.step + 1, suspects(self.ranks, batches, losses, verdict)
        numbers = {"loss": loss if math.isfinite(loss) else str(loss), "grad_norm": norm if applied else None}
        rows = [s.row() for s in suspected[:MOST_SUSPECTS]]
        self._write("events", {"step": step, "event": verdict, **numbers, "micro_batches": rows})
        worst = suspected[0] if suspected else None
        keys = f"; look at {', '.join(worst.keys[:10])} of rank {worst.rank}" if worst else ""
        say(self.ranks, f"WARNING step {step}: {verdict}, loss {loss:.4g}, gradient norm {norm:.4g}{keys}")
        if self.settings.save_bad_batches:
            for s in suspected[: 1 if verdict == "spike" else MOST_SUSPECTS]:
                if s.rank == self.ranks.rank:
                    i = s.place // self.ranks.world_size
                    save_batch(self.output / "bad", step, s, batches[i].model_inputs(), self._seed(i))
        if self.health.in_a_row >= self.settings.max_bad_steps:
            raise TrainingError(
                f"{self.health.in_a_row} steps in a row were skipped, up to step {step}: loss or gradient is not "
                f"finite{keys}. The last checkpoint is not touched; look at {self.output / 'events.jsonl'}, exclude "
                "bad samples (data.train[].exclude), lower optimizer.peak_lr or raise trainer.max_bad_steps"
            )


def dropout_seed(seed: int, step: int, micro_batch: int) -> int:
    """Seed of the dropout masks of the m-th micro-batch of a step: no state to save, the same on any world size."""
    digest = hashlib.blake2b(f"dropout {seed} {step} {micro_batch}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1
