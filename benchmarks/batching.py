"""Fill and balance of the plan's micro-batches, against those of other systems on the same samples and budgets.

AliMeeting-like clips (40–50 s, 2–4 speakers, all registration modes) and ASR utterances (log-normal, 1–20 s), made-up
lengths. Peers get the same samples in webdataset's order (shards shuffled, a shuffle buffer of 1,000), modes mixed in a
batch: fixed batches of as many samples as surely fit, and batches filled greedily under both budgets. Imbalance: the
largest of the micro-batches that run side by side over their mean, less 1, by operations of the 7B model. No clock.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.support.planning import FakeBank, FakeSource, make_plan
from pipeline.data.index_rows import IndexRow
from pipeline.data.plan import Plan
from pipeline.data.plan_report import PlanReport, flops_of, report
from pipeline.data.planned import GlobalStep, MicroBatch, PlannedSample
from pipeline.flops import Meter, Sizes
from pipeline.recipe.schema import DataConfig
from pipeline.stages import STAGES
from shards.sample import SAMPLE_RATE

# Qwen2.5-7B with LoRA of rank 16 on every matrix, SenseVoiceSmall's encoder, a projector of two layers.
SPEAKERLM_7B = Sizes(
    llm=6_525_288_448, head=544_997_376, lora=40_370_176, encoder=220_000_000, projector=6_291_456,
    convolution=3_670_016, speaker=688_128, llm_layers=28, llm_width=3584, encoder_layers=70, encoder_width=512,
    projector_layers=2,
)  # fmt: skip

TARGETS = {"clips_fill": 0.95, "utterances_fill": 0.97, "imbalance": 0.03}
BUDGETS = {"max_positions": 6000, "max_frames": 12000}


def clips(shards: int) -> FakeSource:
    """Meetings of 2–4 speakers in clips of 40–50 s; 330 characters a minute."""
    rng = np.random.default_rng(1)
    bank = [f"meeting:S{i}" for i in range(500)]

    def row(shard: int, place: int) -> IndexRow:
        seconds = rng.uniform(40, 50)
        who = rng.choice(len(bank), rng.integers(2, 5), replace=False)
        turns = rng.integers(2, 9, len(who))
        return IndexRow(
            f"clip-{shard:04d}-{place:03d}", shard, place, f"m{rng.integers(200)}", int(seconds * SAMPLE_RATE),
            tuple(bank[i] for i in who), tuple(turns.tolist()), int(seconds * rng.normal(4.2, 0.8)), int(seconds * 4),
        )  # fmt: skip

    return FakeSource("clips", [[row(s, i) for i in range(300)] for s in range(shards)], FakeBank(bank))


def utterances(shards: int) -> FakeSource:
    """Single-speaker utterances of 1–20 s, median 5 s."""
    rng = np.random.default_rng(2)

    def row(shard: int, place: int) -> IndexRow:
        seconds = float(np.clip(rng.lognormal(1.6, 0.6), 1, 20))
        tokens = max(1, int(seconds * rng.normal(3.3, 0.5)))
        speaker = f"asr:S{rng.integers(2000)}"
        return IndexRow(
            f"utterance-{shard:04d}-{place:05d}", shard, place, speaker, int(seconds * SAMPLE_RATE), (speaker,), (1,),
            tokens, tokens,
        )  # fmt: skip

    return FakeSource("utterances", [[row(s, i) for i in range(2000)] for s in range(shards)], None)


def shuffled(samples: Sequence[PlannedSample], buffer: int = 1000) -> Iterator[PlannedSample]:
    """webdataset's order: shards permuted, then ``webdataset.shuffle(1000)``, by its own code."""
    from webdataset.filters import _shuffle

    rng = random.Random(1)
    shards = sorted({p.shard for p in samples})
    rng.shuffle(shards)
    of = {s: [p for p in samples if p.shard == s] for s in shards}
    return iter(_shuffle((p for s in shards for p in of[s]), bufsize=buffer, initial=100, rng=rng))


def batched(items: Iterator[Any], size: int) -> Iterator[tuple[Any, ...]]:
    """itertools.batched, which Python 3.11 lacks."""
    while group := tuple(islice(items, size)):
        yield group


def fixed(samples: Iterator[PlannedSample], longest: int, most: int) -> Iterator[list[PlannedSample]]:
    """Batches of as many samples as fit whatever their lengths."""
    size = min(BUDGETS["max_frames"] // longest, BUDGETS["max_positions"] // most)
    return (list(b) for b in batched(samples, size))


def greedy(samples: Iterator[PlannedSample]) -> Iterator[list[PlannedSample]]:
    """Each batch takes samples as they come until one does not fit."""
    batch: list[PlannedSample] = []
    for p in samples:
        grown = [*batch, p]
        positions, frames = sum(q.positions for q in grown), len(grown) * max(q.frames for q in grown)
        if positions > BUDGETS["max_positions"] or frames > BUDGETS["max_frames"]:
            yield batch
            grown = [p]
        batch = grown


def as_steps(batches: Iterator[list[PlannedSample]], size: int) -> list[GlobalStep]:
    """Whole steps of micro-batches."""
    micro = (MicroBatch(0, b[0].mode, tuple(b)) for b in batches)
    return [GlobalStep(i, group, {}) for i, group in enumerate(batched(micro, size), 1) if len(group) == size]


def compare(source: FakeSource, size: int, window: int, registration: bool) -> dict[str, PlanReport]:
    """An epoch of the plan without its last step, which is ragged, and the same samples as others would batch them."""
    data = DataConfig(micro_batches_per_step=size, window_shards=window, **BUDGETS)  # type: ignore[arg-type]
    plan: Plan = make_plan(source, data=data, registration=registration)
    steps = list(plan)
    samples = [p for s in steps for b in s.micro_batches if b is not None for p in b.samples]
    longest, most = max(p.frames for p in samples), max(p.positions for p in samples)
    cost = flops_of(Meter(SPEAKERLM_7B, STAGES[4].trains, True, None), plan.settings.stride)
    found = {
        "plan": steps[:-1],
        "greedy, webdataset's order": as_steps(greedy(shuffled(samples)), size),
        "fixed, webdataset's order": as_steps(fixed(shuffled(samples), longest, most), size),
    }
    return {name: report(list(islice(s, 400)), plan.settings, cost=cost) for name, s in found.items()}


def main() -> int:
    """Run, print the tables and one line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="exit 1 where a target is missed")
    parser.add_argument("--micro-batches", type=int, default=8, help="of a step, run side by side")
    parser.add_argument("--shards", type=int, default=12)
    args = parser.parse_args()
    figures: dict[str, float] = {}
    for name, source, registration in (
        ("clips", clips(args.shards), True),
        ("utterances", utterances(args.shards), False),
    ):
        print(f"{name}: {sum(source.shard_samples)} samples; {args.micro_batches} micro-batches side by side")
        print(f"  {'':28}{'budget fill':>12}{'positions':>11}{'padding':>9}{'imbalance':>11}{'sessions':>10}")
        for how, r in compare(source, args.micro_batches, 4, registration).items():
            print(f"  {how:28}{r.budget_fill:12.1%}{r.fill:11.1%}{r.padding:9.1%}{r.imbalance:11.1%}{r.sessions:10.1f}")
            key = f"{name}_{how.partition(',')[0]}"
            figures |= {f"{key}_{n}": round(getattr(r, n), 4) for n in ("budget_fill", "padding", "imbalance")}
    figures |= {
        "clips_fill": figures["clips_plan_budget_fill"],
        "utterances_fill": figures["utterances_plan_budget_fill"],
        "imbalance": max(figures["clips_plan_imbalance"], figures["utterances_plan_imbalance"]),
    }
    met = all(figures[n] <= t if n == "imbalance" else figures[n] >= t for n, t in TARGETS.items())
    print(json.dumps({"name": "batching", "figures": figures, "targets": TARGETS, "met": met}))
    return int(args.check and not met)


if __name__ == "__main__":
    sys.exit(main())
