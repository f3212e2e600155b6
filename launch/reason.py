"""Speaker-Reasoner from the demo's parts, beside SpeakerLM: `make reason`, at most 45 minutes on two cores.

After `make demo`'s data, stand-ins and stages (made here if they are missing): two-minute conversations, cut into clips
of a session each; stages 11 to 13 from the demo's stage 4; and SpeakerLM's stage 4 again from the same weights, by as
many updates as the three stages have together. Then both transcribe the demo's held-out conversations, and the reasoner
held-out conversations of two minutes, with its cache and without. Each step is a command with its log in
DIR/reason/logs; a second `make reason` continues where the first one stopped.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import demo
from chain import pack_step, shards_cli, simulate_step, train_step, training_steps
from conversation_sets import Style
from pipeline.recipe.load import load_recipes
from reason_scores import Compared, report
from shards.commands.parser import Parser
from shards.weights.fetch import cache_folder
from steps import ROOT, Part, Step, run_steps

RECIPES = ROOT / "launch" / "recipes"
STYLE = Style(seconds="110-120", alone_words="1-1", words="1-4")


@dataclass(frozen=True)
class Size:
    """Sizes of the two-minute conversations and of training."""

    demo: demo.Size = field(default_factory=demo.Size)
    long: int = 80  # conversations of two minutes for stages 12 and 13
    test_long: int = 12
    chunk: str = "6-9"  # seconds of a clip of them
    overrides: tuple[str, ...] = ()  # of the recipes; they say how long to train
    practice_steps: int = 600  # updates, each of a micro-batch of dialogues on every process, that the LLM practises
    known_seconds: int = 12  # of the cache, as in stage 13's recipe
    attempts: int = 6  # at a reply
    batch: int = 16


SMOKE = Size(
    demo=demo.SMOKE,
    long=2,
    test_long=2,
    overrides=(
        "trainer.max_steps=2",
        "trainer.validate_every=2",
        "trainer.validation_batches=2",
        "optimizer.warmup_steps=1",
    ),
    attempts=1,
    practice_steps=2,
)


def data_steps(out: Path, size: Size) -> Iterator[Step]:
    """Yield two-minute conversations: those for training cut into clips and packed, those of the test whole."""
    data, speech = out / "reason" / "data", out / "data" / "speech" / "digits"
    style = STYLE.several
    yield simulate_step(speech, data / "mixed" / "long", size.long, 31, style, [])
    yield Step(
        "clips of long",
        (*shards_cli(), "clips", str(data / "mixed" / "long"), str(data / "clips"), "--seconds", size.chunk),
        data / "clips" / "audit.json",
        seconds=2,
    )
    yield pack_step(data / "clips", data / "long", 31, size.demo.workers, size.demo.samples_per_shard, ())
    yield simulate_step(speech, data / "mixed" / "test-long", size.test_long, 95, style, [data / "mixed" / "long"])


def model_step(out: Path, size: Size) -> Step:
    """Return the step that lets the demo's LLM practise dialogues with times, on as many processes as train."""
    made, recipes = out / "reason" / "models", RECIPES / "speaker-reasoner-tiny"
    processes = size.demo.training.processes
    return Step(
        "stage 0: the stand-in LLM practises times",
        (sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes))
        + (str(ROOT / "launch" / "reason_llm.py"), str(recipes), str(out / "models" / "llm"))
        + (str(out / "exp" / "stage4"), str(made), f"root={out}", "--steps", str(size.practice_steps)),
        made / "done",
        seconds=340,
    )


def stage_steps(out: Path, size: Size) -> Iterator[Step]:
    """Yield stages 11 to 13, and SpeakerLM's stage 4 by as many updates more."""
    processes, recipes = size.demo.training.processes, RECIPES / "speaker-reasoner-tiny"
    settings = (f"root={out}", *size.overrides)
    stages = {11: 160.0, 12: 390.0, 13: 310.0}
    made = [Part(f"stage {n}: train", run_folder(out, n) / "done", seconds) for n, seconds in stages.items()]
    yield train_step("stages 11 to 13: train", recipes, ("--stages", "R1-R3", *settings), made, processes)
    found = load_recipes(recipes, "R1-R3", settings)
    practised = -(-size.practice_steps // found[0].data.micro_batches_per_step)
    updates = sum(r.trainer.max_steps for r in found) + practised
    own = (f"init_from={out / 'exp' / 'stage4'}", f"output={run_folder(out, 4)}", f"trainer.max_steps={updates}")
    settings = (f"root={out}", "trainer.validate_every=400", *size.overrides, *own)
    made = [Part("stage 4: train on", run_folder(out, 4) / "done", 600)]
    yield train_step(made[0].name, RECIPES / "tiny" / "stage4.yaml", settings, made, processes)


def run_folder(out: Path, stage: int) -> Path:
    """Return the folder of a run of this chain; stage 4 is SpeakerLM's."""
    return out / "reason" / "exp" / f"stage{stage}"


def transcript_steps(out: Path, size: Size) -> Iterator[Step]:
    """Yield the steps that transcribe: the demo's test sets by both systems, two-minute conversations by one.

    They do not need one another.
    """
    made, mixed = out / "reason", out / "data" / "mixed"
    for naming in ("model", "none"):
        yield transcribe_step(
            f"stage 13: transcribe two minutes {'with' if naming == 'model' else 'without'} the cache",
            run_folder(out, 13),
            made / "data" / "mixed" / "test-long",
            made / "transcripts" / naming,
            size.chunk,
            *("--reasoner", "--naming", naming, "--known-seconds", str(size.known_seconds)),
            *("--attempts", str(size.attempts), "--batch", str(size.batch)),
        )
    for test in size.demo.training.tests:
        for stage in (12, 13):
            folder = made / "decoded" / f"stage{stage}" / test
            command = (
                *(sys.executable, "-m", "pipeline.decode.test_set", str(run_folder(out, stage))),
                *(str(out / "data" / test), str(folder), "--batch", str(size.batch)),
                *("--attempts", str(size.attempts)),
            )
            yield Step(f"stage {stage}: decode {test}", command, folder / "done", seconds=60, after=())
        folder = made / "transcripts" / "stage4" / test
        name = f"stage 4: transcribe {test}"
        yield transcribe_step(name, run_folder(out, 4), mixed / test, folder, "12-13")


def transcribe_step(name: str, run: Path, mixed: Path, out: Path, seconds: str, *more: str) -> Step:
    """Transcribe the recordings of a simulated set; the summary that the command prints proves that all are done."""
    audio = sorted(str(p) for p in mixed.glob("audio/*/*.flac"))
    return Step(
        name,
        (sys.executable, "-m", "pipeline.transcribe.cli", *audio, "--model", str(run), "--out", str(out))
        + ("--seconds", seconds, "--formats", "json", *more),
        out / "done",
        prints_proof=True,
        seconds=60,
        after=(),
    )


def compared(out: Path, size: Size) -> Compared:
    """Return the folders that the tables compare."""
    made = out / "reason"
    tests = size.demo.training.tests
    return Compared(
        dialogues={(s, t): made / "decoded" / f"stage{s}" / t for s in (12, 13) for t in tests},
        transcripts={t: made / "transcripts" / "stage4" / t for t in tests},
        cached=made / "transcripts" / "model",
        uncached=made / "transcripts" / "none",
        long=made / "data" / "mixed" / "test-long",
    )


def main() -> None:
    """Run every step that has not run yet, then print the tables."""
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=ROOT / "demo", help="the demo's folder; results are in its reason/")
    parser.add_argument("--cache", type=Path, default=cache_folder(), help="folder for fetched packages")
    parser.add_argument("--smoke", action="store_true", help="a few minutes: every step, almost no training")
    args = parser.parse_args()
    size, out, start = SMOKE if args.smoke else Size(), args.out.resolve(), time.monotonic()
    parts = replace(size.demo.training, tests=())  # the demo scores its stages itself
    steps = [*demo.data_steps(out, size.demo, args.cache), *training_steps(out, parts)]
    run_steps(steps, out / "logs", args.cache, "make reason")
    began, logs = time.monotonic(), out / "reason" / "logs"
    run_steps([*data_steps(out, size), model_step(out, size), *stage_steps(out, size)], logs, args.cache, "make reason")
    run_steps(transcript_steps(out, size), logs, args.cache, "make reason")  # lists the audio that is there by now
    report(compared(out, size), out / "reason")
    after = time.monotonic() - began
    print(f"\n{time.monotonic() - start:.0f} s in all, {after:.0f} s after the demo's. Scores: {out / 'reason'}")


if __name__ == "__main__":
    main()
