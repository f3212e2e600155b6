"""How well a plan fills its micro-batches."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import islice

from pipeline.data.plan import MicroBatch, Plan
from pipeline.prompts import Mode
from shards.sample import SAMPLE_RATE


@dataclass(frozen=True)
class PlanReport:
    """Figures of a stretch of global steps; shares are of 1."""

    steps: int
    micro_batches: int  # real ones
    samples: int
    audio_hours: float
    fill: float  # LLM positions of max_positions
    budget_fill: float  # of the budget that is nearer to its end, positions or padded frames
    padding: float  # encoder frames that are padding
    modes: dict[Mode, int]  # samples

    def __str__(self) -> str:
        modes = ", ".join(f"{mode} {count / self.samples:.1%}" for mode, count in self.modes.items())
        return (
            f"{self.steps} steps, {self.micro_batches} batches, {self.samples} samples, {self.audio_hours:.1f} h: "
            f"positions filled {self.fill:.1%}, nearer budget filled {self.budget_fill:.1%}, "
            f"encoder padding {self.padding:.1%}; {modes}"
        )


def plan_report(plan: Plan, steps: int) -> PlanReport:
    """Take the next ``steps`` global steps from a plan (it moves on) and measure them."""
    taken = list(islice(plan, steps))
    batches = [b for step in taken for b in step.micro_batches if b is not None]
    return _report(batches, len(taken), plan.settings.data.max_positions, plan.settings.data.max_frames)


def _report(batches: Iterable[MicroBatch], steps: int, max_positions: int, max_frames: int) -> PlanReport:
    modes: Counter[Mode] = Counter()
    count = positions = frames = padded = audio = 0
    nearer = 0.0
    for batch in batches:
        count += 1
        modes[batch.mode] += len(batch.samples)
        here = sum(p.positions for p in batch.samples)
        encoder = len(batch.samples) * max(p.frames for p in batch.samples)
        positions, padded = positions + here, padded + encoder
        frames += sum(p.frames for p in batch.samples)
        audio += sum(p.num_samples for p in batch.samples)
        nearer += max(here / max_positions, encoder / max_frames)
    return PlanReport(
        steps=steps,
        micro_batches=count,
        samples=modes.total(),
        audio_hours=audio / SAMPLE_RATE / 3600,
        fill=positions / max(1, count * max_positions),
        budget_fill=nearer / max(1, count),
        padding=1 - frames / max(1, padded),
        modes=dict(sorted(modes.items())),
    )
