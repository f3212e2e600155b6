"""Held-out evaluation: losses, registration gain, and a decode of a few clips.

All ranks make the same calls, whatever their data. The **registration gain** is the loss per target
token with the registered vectors permuted among the names, minus the loss with the true ones. At 0 the model ignores
the vectors.

Losses are always computed. The decode costs more: it is skipped while validation would take more than its share of the
run's time. Both are reported.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from pipeline.ranks.collectives import all_reduce_sum, any_rank
from pipeline.stages import stage_of
from pipeline.train.decode_rates import NAMES, OF_DIALOGUES, RATES
from pipeline.train.loss_table import LossTable, PartTable
from pipeline.train.validation_decode import ValidationDecode

if TYPE_CHECKING:
    from torch import Tensor

    from pipeline.train.run import Run


logger = logging.getLogger(__name__)


class Validation:
    """The validations of one run."""

    def __init__(self, run: Run) -> None:
        recipe = run.recipe
        self._settings, self._ranks, self._engine, self._data = recipe.trainer, run.ranks, run.engine, run.data
        self._stop, self._beat = run.stop, run.watchdog.beat
        self._gain = stage_of(recipe.stage).registration
        self._decode: ValidationDecode | None = None
        if recipe.trainer.decode_clips and run.data.validation_names:
            sets, tokenizer = run.data.validation_sets, run.data.tokenizer
            self._decode = ValidationDecode(recipe, run.ranks, run.engine, sets, tokenizer)
        self._began = time.perf_counter()
        self._spent = self._decode_cost = 0.0

    def run(self, step: int, final: bool = False) -> dict[str, Any] | None:
        """Return a row of ``validation.jsonl``, or None if a stop was requested meanwhile. Collective.

        Args:
            final: the stage ends here; the decode is not skipped.
        """
        began = time.perf_counter()
        self._engine.module.eval()
        row = self._losses(step)
        if row is None:
            return None
        losses_done = time.perf_counter()
        scores = None
        if self._decode is not None:
            if final or self._affordable(losses_done - began):
                scores = self._decode.run(step, lambda: self._stop.is_set, self._beat)
                if scores is None:
                    return None
                self._decode_cost = time.perf_counter() - losses_done
            else:
                row["decode_left_out"] = self._reason()
        self._spent += time.perf_counter() - began
        row["scores"] = scores
        row["seconds"] = round(time.perf_counter() - began, 3)
        row["decode_seconds"] = round(time.perf_counter() - losses_done, 3)
        row["share"] = round(self._spent / (time.perf_counter() - self._began), 4)
        self._log(row)
        return row

    def _losses(self, step: int) -> dict[str, Any] | None:
        """Compute the losses per dataset and mode, and the registration gain."""
        import torch

        table, parts = LossTable(self._data.validation_names), PartTable()
        of_parts = torch.zeros(2 * len(parts.parts), dtype=torch.float64)
        sums, counts = table.zeros(), table.zeros()
        gains, replaced = [0.0] * 4, 0
        with torch.no_grad():
            for batches, bad in self._data.validation():
                replaced += bad
                for batch in batches:
                    self._beat("validation")
                    true = self.token_losses(batch)
                    table.add(sums, batch, float(true.sum()))
                    table.add(counts, batch, batch.num_targets)
                    of_parts += parts.row(batch, true, true.device)
                    if self._gain:
                        gains = [a + b for a, b in zip(gains, self._gains(batch, true), strict=True)]
                if any_rank(self._ranks, self._stop.is_set):
                    return None
        n = len(sums)
        *everyone, all_replaced = all_reduce_sum(self._ranks, [*sums, *counts, *gains, *of_parts.tolist(), replaced])
        sums, counts, gains = everyone[:n], everyone[n : 2 * n], everyone[2 * n : 2 * n + 4]
        row: dict[str, Any] = {"step": step, "loss": sum(sums) / max(1.0, sum(counts))}
        row["losses"] = table.means(sums, counts)
        if found := parts.means(everyone[2 * n + 4 :]):
            row["part_losses"] = found
        if all_replaced:
            row["replaced"] = int(all_replaced)
        if self._gain and gains[2]:
            names = gains[1] / gains[3] if gains[3] else None
            row["registration_gain"] = {"names": names, "all": gains[0] / gains[2], "targets": int(gains[2])}
        return row

    def token_losses(self, batch: Any) -> Tensor:
        """Return token losses, (T,) float64 on the host; zeros for an empty micro-batch."""
        losses: Tensor = self._engine(**batch.to(self._ranks.device).model_inputs(), each_token=True).token_losses
        return losses.double().cpu() * batch.weight

    def _gains(self, batch: Any, true: Tensor) -> Sequence[float]:
        """Sum loss differences over the targets that the permutation affects, and over name tokens; count both."""
        exchanged, affected = batch.exchanged()
        difference = self.token_losses(exchanged) - true
        in_labels = affected & batch.labels
        weight = float(batch.weight > 0)
        chosen = [float(difference[affected].sum()), float(difference[in_labels].sum())]
        return [weight * v for v in (*chosen, float(affected.sum()), float(in_labels.sum()))]

    def _affordable(self, losses: float) -> bool:
        """Return whether the decode fits into the share of the time so far, by the first rank's clock. Collective."""
        elapsed = time.perf_counter() - self._began
        share = self._settings.validation_share
        fits = share == 1 or self._spent + losses + self._decode_cost <= share * elapsed
        return any_rank(self._ranks, fits and self._ranks.is_first)

    def _reason(self) -> str:
        cost = f"the last one took {self._decode_cost:.0f} s" if self._decode_cost else "too early in the run"
        share = 100 * self._settings.validation_share
        return f"validation may take {share:g} % of the time (trainer.validation_share); {cost}"

    def _log(self, row: dict[str, Any]) -> None:
        """Log a line, and a warning if the losses alone take more than the share."""
        parts = [f"validation at step {row['step']}: loss {row['loss']:.4f}"]
        parts += [f"{name} {value:.4f}" for name, value in row["losses"].items()]
        parts += [f"{name} {value:.3f}" for name, value in row.get("part_losses", {}).items()]
        if gain := row.get("registration_gain"):
            names = "" if gain["names"] is None else f"{gain['names']:+.4f} per name token, "
            parts.append(f"registration gain {names}{gain['all']:+.4f} per token")
        for mode, rates in (row["scores"] or {}).items():
            shown = dict.fromkeys((*RATES, *OF_DIALOGUES))
            figures = [f"{NAMES.get(r, r)} {rates[r]:.2f}" for r in shown if rates.get(r) is not None]
            parts.append(f"{mode}: {' '.join(figures)}")
        parts += [f"no decode: {row['decode_left_out']}"] if "decode_left_out" in row else []
        if n := row.get("replaced"):
            parts.append(f"{n} damaged samples replaced, so the losses are of slightly different data")
        parts.append(f"{row['seconds']:.1f} s, {100 * row['share']:.1f} % of the time")
        logger.info("  ".join(parts))
        losses = row["seconds"] - row["decode_seconds"]
        too_much = row["step"] and row["share"] > self._settings.validation_share and losses > row["decode_seconds"]
        if too_much and self._ranks.is_first:
            logger.warning(
                "validation takes %.1f %% of the time, more than trainer.validation_share %g %%: raise "
                "trainer.validate_every or lower trainer.validation_batches",
                100 * row["share"],
                100 * self._settings.validation_share,
            )


def figures(row: dict[str, Any]) -> dict[str, float | None]:
    """Return the figures that compare checkpoints: the loss and, if clips were decoded, the rates over all modes."""
    rates = (row["scores"] or {}).get("all", {})
    der = {"der": rates["der"]} if "der" in rates else {}
    return {"loss": row["loss"], **{rate: rates.get(rate) for rate in RATES}, **der}
