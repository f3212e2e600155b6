"""What checkpoints cost: bytes, share of training time, time to the first step after a restart.

One process trains a small SpeakerLM (a frozen LLM of 35 M parameters, LoRA, encoder and projectors learn) and saves it
now and then, in the background and not, and with DeepSpeed's own ``save_checkpoint``, in turns. What a save costs at
the paper's scale is extrapolated from the rates of this machine: 1 B trainable parameters on 4 ranks, a save every
10,000 steps, a step as short as 4 A800 could make it at their full 312 TFLOP/s.

    python benchmarks/checkpoint.py --check
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
os.environ.update({"DS_ACCELERATOR": "cpu", "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"})

TARGETS = {"bytes_of_deepspeed": 0.25, "share_at_10k": 0.05, "paper_share_at_10k": 0.05}
PAPER_PARAMETERS, PAPER_RANKS, PAPER_INTERVAL = 1e9, 4, 10_000
# 6,000 positions a rank, forward 2 and backward 2 operations a weight of the frozen 7.6 B
PAPER_STEP = 6_000 * 4 * 7.6e9 / 312e12
BYTES_A_PARAMETER = 12  # master and two moments


@dataclass
class Seconds:
    """Times of one kind of save."""

    stalls: list[float] = field(default_factory=list)  # that training stood still
    steps: list[float] = field(default_factory=list)  # made while it was written


def make_recipe(folder: Path) -> Any:
    """Base models, packed data and a stage-1 recipe over them."""
    from pipeline.config import save_recipe
    from pipeline.model.checkpoints import make_encoder, make_llm, make_tokenizer
    from tests.support.datasets import make_dataset
    from tests.support.tiny import TEXTS, TinyBase, model_config, tokenizer_size
    from tests.support.training import DIM, tiny_recipe

    llm = make_tokenizer(folder / "base" / "llm", TEXTS)
    make_llm(llm, tokenizer_size(llm), hidden=512, layers=10, heads=8, ffn=1536)
    encoder = make_encoder(folder / "base" / "encoder", 128, 3, 1)
    make_dataset(folder / "data", samples=24, seconds=(4.0, 8.0), dim=DIM, seed=3)
    recipe = tiny_recipe(folder, folder / "run", stage=1, max_steps=1000, validate_every=10_000, save_every=10_000)
    recipe.model = model_config(TinyBase(encoder, llm), speaker_dim=DIM)
    recipe.data.validation, recipe.data.micro_batches_per_step = [], 1
    recipe.data.max_frames, recipe.data.max_positions = 800, 1500
    save_recipe(recipe, folder / "recipe.yaml")
    return recipe


def train(recipe: Any, rounds: int, steps: int) -> dict[str, Seconds | int]:
    """Steps and saves in turns; times, and the bytes of a checkpoint of each kind."""
    from pipeline.engine import check_optimizer, init_distributed, initialize, resolve_deepspeed
    from pipeline.model.build import load_tokenizer
    from pipeline.resilience import StopRequest
    from pipeline.stage_data import StageData
    from pipeline.start import build
    from pipeline.trainer import Run, Trainer

    ranks = init_distributed(600)
    config = resolve_deepspeed(recipe, 1)
    model, source, bases = build(recipe, config, ranks, None)
    engine = initialize(model, config)
    check_optimizer(engine, model)
    data = StageData(recipe, ranks, load_tokenizer(recipe.model))
    trainer = Trainer(Run(recipe, ranks, engine, data, StopRequest(), bases, source))
    output = Path(recipe.output)

    def step() -> float:
        batches, _ = trainer._next()
        began = time.perf_counter()
        trainer.update(batches.micro_batches, 0.0)
        trainer.step, trainer.plan_state = trainer.step + 1, batches.state
        return time.perf_counter() - began

    times = {name: Seconds() for name in ("none", "background", "waiting", "deepspeed")}
    for _ in range(3):
        step()
    sizes: dict[str, Seconds | int] = {}
    for _ in range(rounds):
        for name, kept in times.items():
            began = time.perf_counter()
            if name == "deepspeed":
                engine.save_checkpoint(str(output / "deepspeed"), tag="full")
            elif name != "none":
                trainer.saver._background = "always" if name == "background" else "never"
                trainer.save()
            kept.stalls.append(time.perf_counter() - began)
            kept.steps += [step() for _ in range(steps)]
            trainer.saver.wait()
        sizes["ours"] = size_of(max((output / "checkpoints").glob("step-*")))
        sizes["full"] = size_of(output / "deepspeed")
    trainer.save()
    trainer.saver.wait()
    return {**times, **sizes}


def size_of(folder: Path) -> int:
    """Bytes of all files."""
    return sum(p.stat().st_size for p in folder.rglob("*") if p.is_file())


def restart(folder: Path) -> tuple[float, float]:
    """Seconds from the start of a new process to the end of its first step, and those of one that trains from zero."""
    found = []
    for output in (folder / "run", folder / "fresh"):
        log = output / "train.jsonl"
        before = len(log.read_text().splitlines()) if log.exists() else 0
        began = time.perf_counter()
        command = [sys.executable, "launch/train.py", str(folder / "recipe.yaml"), f"output={output}"]
        process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            while process.poll() is None and not (log.exists() and len(log.read_text().splitlines()) > before):
                time.sleep(0.05)
            found.append(time.perf_counter() - began)
            if process.poll() is not None:
                raise RuntimeError(f"{' '.join(command)} ended with {process.returncode} before its first step")
        finally:
            process.kill()
            process.wait()
    return found[0], found[1]


def figures_of(measured: dict[str, Any], steps: int, restarted: tuple[float, float]) -> dict[str, float]:
    """What is told."""
    usual = statistics.median(measured["none"].steps)
    stall = {name: statistics.median(measured[name].stalls) for name in ("background", "waiting", "deepspeed")}
    slower = max(0.0, statistics.mean(measured["background"].steps) - statistics.mean(measured["none"].steps)) * steps
    paper_bytes = PAPER_PARAMETERS * BYTES_A_PARAMETER / PAPER_RANKS
    copy, write = measured["ours"] / stall["background"], measured["ours"] / stall["waiting"]
    period = PAPER_INTERVAL * PAPER_STEP
    return {
        "mb": round(measured["ours"] / 1e6, 2),
        "deepspeed_mb": round(measured["full"] / 1e6, 2),
        "bytes_of_deepspeed": round(measured["ours"] / measured["full"], 4),
        "step_s": round(usual, 4),
        "stall_background_s": round(stall["background"], 4),
        "stall_background_range_s": round(max(measured["background"].stalls) - min(measured["background"].stalls), 4),
        "stall_waiting_s": round(stall["waiting"], 4),
        "stall_deepspeed_s": round(stall["deepspeed"], 4),
        "slower_steps_s": round(slower, 4),
        "share_at_10k": round((stall["background"] + slower) / (PAPER_INTERVAL * usual), 6),
        "copy_gb_s": round(copy / 1e9, 3),
        "write_gb_s": round(write / 1e9, 3),
        "paper_stall_s": round(paper_bytes / copy, 1),
        "paper_share_at_10k": round(paper_bytes / copy / (period + paper_bytes / copy), 6),
        "paper_share_at_10k_waiting": round(paper_bytes / write / (period + paper_bytes / write), 6),
        "first_step_after_restart_s": round(restarted[0], 1),
        "first_step_of_new_run_s": round(restarted[1], 1),
    }


def main() -> int:
    """Run, print the table and one line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="exit 1 where a target is missed")
    parser.add_argument("--rounds", type=int, default=4, help="saves of each kind")
    parser.add_argument("--steps", type=int, default=6, help="steps after each")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        with contextlib.redirect_stdout(sys.stderr):
            measured = train(make_recipe(folder), args.rounds, args.steps)
        shutil.rmtree(folder / "run" / "deepspeed")
        figures = figures_of(measured, args.steps, restart(folder))
    load = os.getloadavg()[0]
    for key, value in figures.items():
        print(f"{key:<30}{value:>14,}" + (f"   at most {TARGETS[key]}" if key in TARGETS else ""))
    print(f"{args.rounds} saves of each kind in turns, {args.steps} steps after each; load of the machine {load:.1f}")
    met = all(figures[key] <= limit for key, limit in TARGETS.items())
    print(json.dumps({"name": "checkpoint", "figures": figures, "targets": TARGETS, "met": met}))
    return int(args.check and not met)


if __name__ == "__main__":
    sys.exit(main())
