"""The training loop. One loop for all stages; what a stage trains is a row of :mod:`pipeline.stages`.

The loss of a global step is L = Σ token losses / T, T = target tokens of the *whole* step: all ranks, all accumulated
micro-batches. T is known before the first backward pass, because a step is loaded whole. DeepSpeed averages gradients
over N ranks, hence ``backward(sum · N / T, scale_wrt_gas=False)``.
"""

from __future__ import annotations

import hashlib
import logging
import math
import time
from collections.abc import Iterator, Sequence
from itertools import repeat
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.checkpoint.format import RunState, write_atomic
from pipeline.ranks.collectives import any_rank, host_group
from pipeline.ranks.stop import REQUEUE
from pipeline.ranks.watchdog import OwnTime
from pipeline.recipe.load import dump_recipe
from pipeline.train.async_reads import GradientNorm, HostCopy
from pipeline.train.checkpoints import Checkpoints, RunCheckpoints
from pipeline.train.gradients import module_norms
from pipeline.train.learning_rate import lr_at, set_lr
from pipeline.train.loss_table import LossTable, PartTable, nan_unless_finite
from pipeline.train.monitors import Monitors
from pipeline.train.run import Run, Step
from pipeline.train.spikes import Health, save_batch, suspects
from pipeline.train.step_totals import OwnNumbers, StepTotals, step_totals
from pipeline.train.train_log import Log, Status, StepRecord, finite, log_row
from pipeline.train.validation import Validation, figures
from shards.errors import TrainingError

if TYPE_CHECKING:
    import torch

logger = logging.getLogger(__name__)

MOST_SUSPECTS = 16  # micro-batches of one step that are listed


class Trainer:
    """One stage, from a fresh engine or a checkpoint to weights and a ``done`` marker."""

    def __init__(self, run: Run, checkpoints: RunCheckpoints | None = None) -> None:
        """Resume from the newest checkpoint, if there is one. Collective.

        Args:
            checkpoints: where checkpoints are kept; None: in the recipe's output.
        """
        self.run = run
        self.recipe, self.ranks, self.engine = run.recipe, run.ranks, run.engine
        self.settings = t = run.recipe.trainer
        self.output = Path(run.recipe.output)
        self.table, self.parts = LossTable(run.data.train_names), PartTable()
        self.hosts = host_group(max(t.start_timeout_seconds, t.timeout_seconds) + 60)
        self.checkpoints = checkpoints or Checkpoints(run)
        self.norm, self.health = GradientNorm(run.engine), Health()
        self.step, self.plan_state = 0, None  # type: int, dict[str, Any] | None
        self.validated: tuple[int, dict[str, float | None]] | None = None  # step and figures of the last validation
        self._resume()
        self.saved_at, self.finished = self.step, False
        self.steps = self.training_steps()
        self.validation = Validation(run)
        self.monitors = Monitors(run.recipe, run.ranks, self.step)
        self.clock = OwnTime(run.ranks)
        self.status = Status(t.max_steps)
        self.logs = self._open_output() if run.ranks.is_first else {}

    # ------------------------------------------------------------------------------------------------------ the loop

    def train(self) -> int:
        """Update until the stage ends or a stop is requested. Return the process's exit code."""
        code = self._updates()
        return code if self.checkpoints.finish_uploads(self.run.stop, self.run.watchdog.beat) else REQUEUE

    def _updates(self) -> int:
        last = min(self.settings.max_steps, self.run.stop_after or self.settings.max_steps)
        stopped = any_rank(self.ranks, self.run.stop.is_set) or (self._validation_due() and self.validate())
        while self.step < last and not stopped:
            batches, waited = self.next_step()
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
        self.checkpoints.wait()
        if stopped or self.step < self.settings.max_steps:
            logger.info("stopped after step %d; run the same command again to continue from there", self.step)
            return REQUEUE if stopped else 0
        return self.finish()

    def update(self, batches: Sequence[Any], waited: float) -> tuple[StepRecord, bool]:
        """Make one optimizer update from a global step; also return whether any rank must stop.

        Args:
            waited: seconds that this rank waited for the micro-batches.
        """
        began = time.perf_counter()
        totals = self._totals(batches, waited)
        self.run.watchdog.beat(f"step {self.step + 1}")
        lr = lr_at(self.step, self.recipe.optimizer, self.settings.max_steps)
        set_lr(self.engine, lr)
        losses, summed, by_module = self._forward_backward(batches, sum(totals.targets))
        applied = self.engine.was_step_applied()
        norm = self.norm.read() if applied else math.nan
        numbers, cells = summed.numbers(), len(self.table.cells)
        sums = numbers[:cells]
        mean = sum(sums) / max(1.0, sum(totals.targets))
        self._judge(mean, norm, applied, batches, losses)
        self.run.watchdog.beat("loading data", warm=True)
        elapsed = time.perf_counter() - began + totals.waited
        share = self.run.meter.share if self.run.meter else lambda *_: None
        record = StepRecord(
            step=self.step + 1,
            loss=mean,
            lr=lr,
            grad_norm=norm,
            targets=int(sum(totals.targets)),
            positions=int(totals.positions),
            audio_seconds=totals.audio_seconds,
            seconds=elapsed,
            wait_seconds=totals.waited,
            losses=self.table.means(sums, totals.targets),
            part_losses=self.parts.means(numbers[cells:]),
            model_tflop=totals.model_flops / 1e12,
            mfu=share(totals.model_flops, elapsed),
            hfu=share(totals.hardware_flops, elapsed),
            peak_gib=totals.peak_gib,
            skipped=not applied,
            own_seconds=self.clock.laps,
            save_seconds=self.checkpoints.take_stalled(),
            module_norms=by_module,
        )
        return record, totals.stops > 0

    def validate(self, final: bool = False) -> bool:
        """Validate the weights and write a line of ``validation.jsonl``. Return whether a stop was requested meanwhile.

        A stop ends the validation without a result: the batch system does not wait for long. The resumed run repeats
        it.
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
        """Write a line of train.jsonl; every log_every steps log a status line, and a warning if one rank is slow."""
        line = log_row(record) | {"data": figures}
        self._write("train", line)
        self.status.add(record)
        if self._logged(record.step):
            logger.info(self.status.line())
            self.monitors.train(line)
            if slow := self.clock.straggler():
                self._warn(slow)
                self._write("events", {"step": self.step, "event": "straggler", "what": slow})

    def save(self) -> None:
        """Save a checkpoint of the state after the current step, unless it has been saved."""
        if self.saved_at == self.step:
            return
        state = RunState(
            stage=self.recipe.stage,
            step=self.step,
            plan=self.run.data.merged_state(self.plan_state or {}),
            bases=self.run.bases,
            recipe=dump_recipe(self.recipe),
            health=self.health.state_dict(),
            validation=self.validated[1] if self.validated and self.validated[0] == self.step else None,
        )
        self.clock.forget()
        self.run.watchdog.beat("saving")
        self.checkpoints.save(state)
        self.run.watchdog.beat("loading data")
        self.saved_at = self.step

    def finish(self) -> int:
        """Validate, write the weights and the ``done`` marker. Return the exit code."""
        if self.run.data.validation_names and self.validate(final=True):
            return REQUEUE
        self.run.watchdog.beat("writing the weights", warm=False)
        path = self.checkpoints.write_final(self.recipe.stage, self.step)
        self.finished = True
        logger.info("stage %d is done: %s", self.recipe.stage, path)
        return 0

    def training_steps(self) -> Iterator[Step]:
        """Yield the global steps after the resumed state; with ``overfit_one_batch`` the first step again and again."""
        steps = iter(self.run.data.train(None if self.settings.overfit_one_batch else self.plan_state))
        return repeat(next(steps)) if self.settings.overfit_one_batch else steps

    def next_step(self) -> tuple[Step | None, float]:
        """Return this rank's part of the next global step, None at the end of the data; and the seconds of waiting."""
        began = time.perf_counter()
        return next(self.steps, None), time.perf_counter() - began

    def forward(self, batch: Any) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the sum of the token losses of one micro-batch, and its row of the parts of dialogues."""
        moved = batch.to(self.ranks.device, non_blocking=True)
        output = self.engine(**moved.model_inputs())
        return output.loss, self.parts.row(moved, getattr(output, "token_losses", None), self.ranks.device)

    def module_norms(self) -> dict[str, float]:
        """Return the gradient norms by module before clipping, in steps that are logged. Collective."""
        wanted = self.settings.module_norms and self._logged(self.step + 1)
        wanted = wanted and not self.engine.zero_round_robin_gradients()  # DeepSpeed mixes up whose gradient is whose
        return module_norms(self.engine, self.ranks) if wanted else {}

    # ------------------------------------------------------------------------------------------------------- details

    def _resume(self) -> None:
        state = self.checkpoints.resume()
        if state is None:
            return
        self.step, self.plan_state = state.step, state.plan
        self.health = Health.from_state(state.health)
        if state.validation is not None:
            self.validated = state.step, state.validation

    def _end_of_data(self) -> int:
        """Finish early: every dataset has an ``epochs`` setting and has ended."""
        logger.info("all datasets are exhausted after step %d, before trainer.max_steps", self.step)
        self.save()
        self.checkpoints.wait()
        return self.finish()

    def _open_output(self) -> dict[str, Log]:
        """Make the run's folder with its resolved recipe, and open its logs."""
        self.output.mkdir(parents=True, exist_ok=True)
        write_atomic(self.output / "config.yaml", dump_recipe(self.recipe))
        replaces = {"train": False, "validation": True, "events": False}
        return {name: Log(self.output / f"{name}.jsonl", self.step, r) for name, r in replaces.items()}

    def _logged(self, step: int) -> bool:
        """Return whether a step gets a status line."""
        return step % self.settings.log_every == 0 or step == self.settings.max_steps

    def _write(self, log: str, line: dict[str, Any]) -> None:
        if self.ranks.is_first:
            self.logs[log].write(line)

    def _warn(self, text: str) -> None:
        """Log a warning that all ranks have, once: on the first rank."""
        if self.ranks.is_first:
            logger.warning(text)

    def _validation_due(self) -> bool:
        """Return whether to validate: before the first step, then every validate_every; not last (:meth:`finish`)."""
        due = self.step % self.settings.validate_every == 0 and self.step < self.settings.max_steps
        return due and bool(self.run.data.validation_names) and (self.validated or (-1,))[0] != self.step

    def _seed(self, i: int) -> int:
        """Return the dropout seed of this rank's i-th micro-batch of the step."""
        return dropout_seed(self.recipe.seed, self.step, i * self.ranks.world_size + self.ranks.rank)

    def _totals(self, batches: Sequence[Any], waited: float) -> StepTotals:
        """Compute the totals of a global step over all ranks. Collective.

        Raises:
            CheckpointError: a save in the background has failed on some rank.
        """
        own = OwnNumbers(self.run.stop.is_set, self.checkpoints.failed, waited, self.clock.lap())
        targets = self.table.targets(batches)
        totals = step_totals(self.ranks, self.hosts, targets, batches, self.run.meter, own)
        self.clock.start(totals.own_seconds)
        if totals.failed_saves:
            self.checkpoints.wait()  # raises the error
        return totals

    def _forward_backward(
        self, batches: Sequence[Any], targets: float
    ) -> tuple[list[torch.Tensor], HostCopy, dict[str, float]]:
        """Accumulate the gradients of this rank's micro-batches and update the weights.

        Args:
            targets: target tokens of the global step.

        Returns:
            The loss of each micro-batch, the row of all ranks' losses, and gradient norms by module.
        """
        import torch

        if not self.engine.module.training:  # it walks through every module, and only validation has changed it
            self.engine.module.train()
        losses: list[torch.Tensor] = []
        parts: list[torch.Tensor] = []
        for i, batch in enumerate(batches):
            torch.manual_seed(self._seed(i))
            loss, of_parts = self.forward(batch)
            parts.append(of_parts)
            losses.append(loss.detach())
            scaled = loss * (self.ranks.world_size / max(1.0, targets))
            last = i == len(batches) - 1
            if last:
                summed = HostCopy(self._all_losses(batches, losses, parts))
                scaled = nan_unless_finite(scaled, summed.tensor)
            self.engine.backward(scaled, scale_wrt_gas=False)
            by_module = self.module_norms() if last else {}
            self.engine.step()
        return losses, summed, by_module

    def _all_losses(
        self, batches: Sequence[Any], losses: Sequence[torch.Tensor], parts: Sequence[torch.Tensor]
    ) -> torch.Tensor:
        """Sum losses over all ranks, by cell of the loss table, then by part, on the device. Collective."""
        import torch

        of_parts = torch.stack(list(parts)).sum(0)
        row = torch.cat([self.table.losses(batches, losses, self.ranks.device), of_parts])
        with self.clock.waiting():
            torch.distributed.all_reduce(row)
        return row

    def _judge(
        self, loss: float, norm: float, applied: bool, batches: Sequence[Any], losses: Sequence[torch.Tensor]
    ) -> None:
        """Report a skipped step or a spike; raise after too many skipped steps in a row. Collective."""
        verdict = self.health.judge(loss, norm, applied)
        if verdict is None:
            return
        step, suspected = self.step + 1, suspects(self.ranks, batches, losses, verdict)
        numbers = {"loss": loss if math.isfinite(loss) else str(loss), "grad_norm": norm if applied else None}
        rows = [s.row() for s in suspected[:MOST_SUSPECTS]]
        self._write("events", {"step": step, "event": verdict, **numbers, "micro_batches": rows})
        worst = suspected[0] if suspected else None
        keys = f"; look at {', '.join(worst.keys[:10])} of rank {worst.rank}" if worst else ""
        self._warn(f"step {step}: {verdict}, loss {loss:.4g}, gradient norm {norm:.4g}{keys}")
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
    """Return the seed of a micro-batch's dropout masks: without a state to save, and the same on any world size."""
    digest = hashlib.blake2b(f"dropout {seed} {step} {micro_batch}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1
