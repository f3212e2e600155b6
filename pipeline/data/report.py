"""How well a plan fills its micro-batches: padding, budgets, imbalance, sessions, modes.

python -m pipeline.data.report launch/recipes/speakerlm-7b/stage4.yaml --ranks 64
"""

from __future__ import annotations

import argparse
import os
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

from pipeline.data.plan import Plan
from pipeline.data.planned import GlobalStep, MicroBatch
from pipeline.flops import Load, Sizes, count
from pipeline.frames import audio_positions
from pipeline.prompts import Mode
from pipeline.recipe.schema import Recipe
from pipeline.stages import STAGES
from shards.sample import SAMPLE_RATE

# Qwen2.5-7B with LoRA of rank 16 on every matrix, SenseVoiceSmall's encoder, a projector of two layers.
SPEAKERLM_7B = Sizes(
    llm=6_525_288_448, head=544_997_376, lora=40_370_176, encoder=220_000_000, projector=6_291_456,
    convolution=3_670_016, speaker=688_128, llm_layers=28, llm_width=3584, encoder_layers=70, encoder_width=512,
    projector_layers=2,
)  # fmt: skip
Cost = Callable[[MicroBatch], float]


def estimated_flops(batch: MicroBatch, stride: int, trains: Iterable[str], sizes: Sizes = SPEAKERLM_7B) -> float:
    """Operations of a planned micro-batch, forward and backward, as the hardware does them."""
    load = Load(
        samples=tuple(p.positions for p in batch.samples),
        frames=tuple(p.frames for p in batch.samples),
        audio_positions=sum(audio_positions(p.num_samples, stride) for p in batch.samples),
        speakers=sum(len(p.names) for p in batch.samples),
        targets=sum(p.targets for p in batch.samples),
    )
    return count(sizes, load, trains, checkpointing=True).hardware


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
    imbalance: float  # of a round, whose micro-batches run side by side: the dearest over the mean, less 1; mean
    sessions: float  # different ones in a step, mean
    modes: dict[Mode, int]  # samples

    def __str__(self) -> str:
        modes = ", ".join(f"{mode} {count / max(1, self.samples):.1%}" for mode, count in self.modes.items())
        return (
            f"{self.steps} steps, {self.micro_batches} batches, {self.samples} samples, {self.audio_hours:.1f} h: "
            f"positions filled {self.fill:.1%}, nearer budget filled {self.budget_fill:.1%}, "
            f"encoder padding {self.padding:.1%}, imbalance {self.imbalance:.1%}, "
            f"{self.sessions:.0f} sessions a step; {modes}"
        )

    def row(self) -> dict[str, Any]:
        """For a log of JSON lines."""
        shares = {n: round(getattr(self, n), 4) for n in ("fill", "budget_fill", "padding", "imbalance")}
        return shares | {"sessions": self.sessions, "samples": {str(mode): n for mode, n in self.modes.items()}}


def plan_report(plan: Plan, steps: int, ranks: int | None = None, cost: Cost | None = None) -> PlanReport:
    """Take the next ``steps`` global steps from a plan (it moves on) and measure them; see :func:`report`."""
    return report(list(islice(plan, steps)), plan, ranks, cost)


def report(steps: Sequence[GlobalStep], plan: Plan, ranks: int | None = None, cost: Cost | None = None) -> PlanReport:
    """Measure global steps of a plan.

    Args:
        ranks: micro-batches of a round; None: all of a step run side by side.
        cost: of a micro-batch; None: operations of the 7B model whose LoRA and projectors learn.
    """
    settings = plan.settings
    cost = cost or partial(estimated_flops, stride=settings.stride, trains=STAGES[4].trains)
    modes: Counter[Mode] = Counter()
    number = positions = frames = padded = audio = 0
    nearer = 0.0
    for batch in (b for step in steps for b in step.micro_batches if b is not None):
        number += 1
        modes[batch.mode] += len(batch.samples)
        here = sum(p.positions for p in batch.samples)
        encoder = len(batch.samples) * max(p.frames for p in batch.samples)
        positions, padded = positions + here, padded + encoder
        frames += sum(p.frames for p in batch.samples)
        audio += sum(p.num_samples for p in batch.samples)
        nearer += max(here / settings.data.max_positions, encoder / settings.data.max_frames)
    return PlanReport(
        steps=len(steps),
        micro_batches=number,
        samples=modes.total(),
        audio_hours=audio / SAMPLE_RATE / 3600,
        fill=positions / max(1, number * settings.data.max_positions),
        budget_fill=nearer / max(1, number),
        padding=1 - frames / max(1, padded),
        imbalance=_imbalance(steps, ranks or settings.data.micro_batches_per_step, cost),
        sessions=sum(distinct_sessions(s) for s in steps) / max(1, len(steps)),
        modes=dict(sorted(modes.items())),
    )


def distinct_sessions(step: GlobalStep) -> int:
    """Of its samples."""
    return len({(p.dataset, p.session) for b in step.micro_batches if b is not None for p in b.samples})


def _imbalance(steps: Sequence[GlobalStep], ranks: int, cost: Cost) -> float:
    """Mean over rounds of (dearest / mean) - 1. Ranks without a micro-batch are left out."""
    found = []
    for step in steps:
        for first in range(0, len(step.micro_batches), ranks):
            costs = [cost(b) for b in step.micro_batches[first : first + ranks] if b is not None]
            found += [max(costs) / (sum(costs) / len(costs)) - 1] if costs else []
    return sum(found) / max(1, len(found))


def open_plan(recipe: Recipe, tokenizer: Any) -> Plan:
    """The training plan of a recipe, from its start. Lengths are counted where they are not there yet."""
    from pipeline.data.augment import Noises
    from pipeline.data.index_rows import DatasetSource
    from pipeline.data.lengths import build_lengths
    from pipeline.data.planned import PlanSettings
    from pipeline.data.token_counter import TokenCounter
    from shards.dataset.dataset import open_dataset

    data = recipe.data
    cache = Path(data.lengths_cache) if data.lengths_cache else None
    datasets = [open_dataset(d.path, d.extractor) for d in data.train]
    for dataset in datasets:
        build_lengths(dataset, tokenizer, cache, workers=len(os.sched_getaffinity(0)))
    settings = PlanSettings(
        seed=recipe.seed,
        registration=STAGES[recipe.stage].registration,
        stride=recipe.model.projector.stride,
        tokenizer=tokenizer.hash,
        data=data,
        noise=Noises(data.augment.noise).fingerprint if data.augment.noise else None,
    )
    sources = [DatasetSource(d, tokenizer.hash, cache) for d in datasets]
    return Plan(sources, data.train, settings, TokenCounter(tokenizer))


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the report of a recipe's first steps."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe", type=Path)
    parser.add_argument("overrides", nargs="*", metavar="key=value")
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--ranks", type=int, help="micro-batches that run side by side; default: all of a step")
    args = parser.parse_intermixed_args(arguments)
    from pipeline.recipe.load import load_recipe
    from shards.errors import SpeakerLMError

    try:
        recipe = load_recipe(args.recipe, args.overrides)
        from pipeline.model.build import load_tokenizer

        plan = open_plan(recipe, load_tokenizer(recipe.model))
        cost = partial(estimated_flops, stride=recipe.model.projector.stride, trains=STAGES[recipe.stage].trains)
        print(plan_report(plan, args.steps, args.ranks, cost))
    except SpeakerLMError as e:
        print(f"{type(e).__name__}: {e}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
