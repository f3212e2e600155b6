"""Report of a plan's micro-batches: fill of the budgets, padding, imbalance, sessions, modes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

from pipeline.data.plan import Plan
from pipeline.data.planned import GlobalStep, MicroBatch, PlanSettings
from pipeline.encoder_calls import computed_frames
from pipeline.flops import Meter
from pipeline.frames import Stride, encoder_frames
from pipeline.prompts import Mode
from pipeline.stages import Task
from shards.sample import SAMPLE_RATE

Cost = Callable[[MicroBatch], float]


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
    imbalance: (
        float  # of the micro-batches that run side by side: highest cost over mean cost, less 1; mean over rounds
    )
    sessions: float  # different ones in a step, mean
    modes: dict[Mode | Task, int]  # samples
    languages: dict[str, float]  # share of the audio, the largest first

    def __str__(self) -> str:
        modes = ", ".join(f"{mode} {count / max(1, self.samples):.1%}" for mode, count in self.modes.items())
        languages = ", ".join(f"{language} {share:.1%}" for language, share in self.languages.items())
        return (
            f"{self.steps} steps, {self.micro_batches} batches, {self.samples} samples, {self.audio_hours:.1f} h: "
            f"positions filled {self.fill:.1%}, nearer budget filled {self.budget_fill:.1%}, "
            f"encoder padding {self.padding:.1%}, imbalance {self.imbalance:.1%}, "
            f"{self.sessions:.0f} sessions a step; {modes}; {languages}"
        )

    def row(self) -> dict[str, Any]:
        """For a log of JSON lines."""
        shares = {n: round(getattr(self, n), 4) for n in ("fill", "budget_fill", "padding", "imbalance")}
        return shares | {"sessions": self.sessions, "samples": {str(mode): n for mode, n in self.modes.items()}}


def plan_report(plan: Plan, steps: int, ranks: int | None = None, cost: Cost | None = None) -> PlanReport:
    """Draw the next ``steps`` global steps from a plan and measure them; see :func:`report`."""
    return report(list(islice(plan, steps)), plan.settings, ranks, cost)


def flops_of(meter: Meter, stride: Stride, calls: int = 1) -> Cost:
    """Hardware operations of a planned micro-batch in the model of ``meter``, as its cost; ``calls`` of the encoder."""
    return lambda batch: meter.hardware(batch.load(stride, calls))


def positions_of(batch: MicroBatch) -> float:
    """LLM positions of a planned micro-batch: its cost where the model's sizes are not known."""
    return sum(p.positions for p in batch.samples)


def report(
    steps: Sequence[GlobalStep], settings: PlanSettings, ranks: int | None = None, cost: Cost | None = None
) -> PlanReport:
    """Measure global steps of a plan.

    Args:
        settings: of the plan.
        ranks: micro-batches of a round; None: all of a step run side by side.
        cost: of a micro-batch, for the imbalance; None: :func:`positions_of`.
    """
    modes: Counter[Mode | Task] = Counter()
    languages: Counter[str] = Counter()
    number = positions = frames = padded = audio = 0
    nearer = 0.0
    for batch in (b for step in steps for b in step.micro_batches if b is not None):
        number += 1
        modes[batch.mode] += len(batch.samples)
        here = sum(p.positions for p in batch.samples)
        audios = [encoder_frames(n) for p in batch.samples for n in p.audio_lengths]
        encoder = computed_frames(audios, settings.data.encoder_calls, settings.frame_multiple)
        positions, padded = positions + here, padded + encoder
        frames += sum(audios)
        audio += sum(p.num_samples for p in batch.samples)
        for p in batch.samples:
            languages[p.language] += p.num_samples
        nearer += max(here / settings.data.max_positions, encoder / settings.data.max_frames)
    return PlanReport(
        steps=len(steps),
        micro_batches=number,
        samples=modes.total(),
        audio_hours=audio / SAMPLE_RATE / 3600,
        fill=positions / max(1, number * settings.data.max_positions),
        budget_fill=nearer / max(1, number),
        padding=1 - frames / max(1, padded),
        imbalance=_imbalance(steps, ranks or settings.data.micro_batches_per_step, cost or positions_of),
        sessions=sum(distinct_sessions(s) for s in steps) / max(1, len(steps)),
        modes={mode: modes[mode] for mode in sorted(modes)},
        languages={language: n / max(1, audio) for language, n in languages.most_common()},
    )


def distinct_sessions(step: GlobalStep) -> int:
    """Number of sessions that a step's samples are from."""
    return len({(p.dataset, p.session) for b in step.micro_batches if b is not None for p in b.samples})


def _imbalance(steps: Sequence[GlobalStep], ranks: int, cost: Cost) -> float:
    """Mean over rounds of (highest cost / mean cost) - 1. Ranks without a micro-batch are not counted."""
    found = []
    for step in steps:
        for first in range(0, len(step.micro_batches), ranks):
            costs = [cost(b) for b in step.micro_batches[first : first + ranks] if b is not None]
            found += [max(costs) / (sum(costs) / len(costs)) - 1] if costs else []
    return sum(found) / max(1, len(found))
