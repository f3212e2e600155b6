"""Costs of a run other than its steps: checkpoints in bytes and time, a restart, the gradient norm of each module.

One process trains a small SpeakerLM (a frozen LLM of 35 M parameters, LoRA, encoder and projectors learn) and saves it
now and then, in the background and not, and with DeepSpeed's own ``save_checkpoint``, in turns. Shares are of process
CPU time, which other programs of the machine do not lengthen; a save's holds all that its thread takes, as if there
were no core to spare for it. Then the run is killed and started again, in turns with one that trains from zero. What a
save costs at the paper's scale is extrapolated from this machine's rates: 1 B trainable parameters on 4 ranks, a save
every 10,000 steps, a step as short as 4 A800 could make it at their full 312 TFLOP/s.

    python benchmarks/checkpoint.py --check
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
os.environ.update({"DS_ACCELERATOR": "cpu", "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"})

TARGETS = {"bytes_of_deepspeed": 0.25, "share_at_10k": 0.05, "paper_share_at_10k": 0.05}  # at most
PAPER_PARAMETERS, PAPER_RANKS, PAPER_INTERVAL = 1e9, 4, 10_000
# 6,000 positions a rank, forward 2 and backward 2 operations a weight of the frozen 7.6 B
PAPER_STEP = 6_000 * 4 * 7.6e9 / 312e12
BYTES_A_PARAMETER = 12  # master and two moments
RENDEZVOUS = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")  # of this process, not of the next
PATIENCE = 900.0  # seconds that a start may take


@dataclass
class Times:
    """Of one kind of work, a value a round."""

    wall: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)  # of all threads of the process
    main: list[float] = field(default_factory=list)  # CPU time of the thread that trains

    def take(self, work: Callable[[], Any], afterwards: Callable[[], Any] = bool) -> None:
        """Do it; wall and main thread's time end with it, the process's CPU time only ``afterwards``."""
        wall, cpu, main = time.perf_counter(), time.process_time(), time.thread_time()
        work()
        self.wall.append(time.perf_counter() - wall)
        self.main.append(time.thread_time() - main)
        afterwards()
        self.cpu.append(time.process_time() - cpu)


def make_recipe(folder: Path) -> Any:
    """Base models, packed data and a stage-1 recipe over them."""
    from benchmarks.support.datasets import make_dataset
    from benchmarks.support.tiny import TEXTS, TinyBase, model_config, tokenizer_size
    from benchmarks.support.training import DIM, tiny_recipe
    from pipeline.recipe.load import save_recipe
    from pipeline.standins.random_models import make_encoder, make_llm, make_tokenizer

    llm = make_tokenizer(folder / "base" / "llm", TEXTS)
    make_llm(llm, tokenizer_size(llm), hidden=512, layers=10, heads=8, ffn=1536)
    encoder = make_encoder(folder / "base" / "encoder", 128, 3, 1)
    make_dataset(folder / "data", samples=24, seconds=(4.0, 8.0), dim=DIM, seed=3)
    recipe = tiny_recipe(
        folder, folder / "run", stage=1, max_steps=1000, validate_every=10_000, save_every=10_000, log_every=1
    )
    recipe.model = model_config(TinyBase(encoder, llm), speaker_dim=DIM)
    recipe.data.validation, recipe.data.micro_batches_per_step = [], 1
    recipe.data.max_frames, recipe.data.max_positions = 800, 1500
    save_recipe(recipe, folder / "recipe.yaml")
    return recipe


def train(recipe: Any, rounds: int, steps: int) -> tuple[dict[str, Times], dict[str, int]]:
    """Steps and saves in turns: times, and the bytes of a checkpoint of each kind."""
    from pipeline.model.build import load_tokenizer
    from pipeline.ranks.launch import init_distributed
    from pipeline.ranks.stop import StopRequest
    from pipeline.recipe.deepspeed import resolve_deepspeed
    from pipeline.train.engine import check_optimizer, initialize
    from pipeline.train.run import Run
    from pipeline.train.run_stage import build
    from pipeline.train.stage_data import StageData
    from pipeline.train.trainer import Trainer

    ranks = init_distributed(600)
    config = resolve_deepspeed(recipe, 1)
    model, source, bases = build(recipe, config, ranks, None)
    engine = initialize(model, config)
    check_optimizer(engine, model)
    data = StageData(recipe, ranks, load_tokenizer(recipe.model))
    trainer = Trainer(Run(recipe, ranks, engine, data, StopRequest(), bases, source))
    output = Path(recipe.output)
    times = {name: Times() for name in ("step", "norms", "background", "waiting", "deepspeed")}
    norms = trainer.module_norms
    trainer.module_norms = lambda: timed_call(times["norms"], norms)  # type: ignore[method-assign]

    def step() -> None:
        batches, _ = trainer.next_step()
        times["step"].take(lambda: trainer.update(batches.micro_batches, 0.0))
        trainer.step, trainer.plan_state = trainer.step + 1, batches.state

    def save(background: str) -> None:
        trainer.checkpoints.saver._background = background
        trainer.save()

    works: dict[str, Callable[[], Any]] = {
        "background": lambda: save("always"),
        "waiting": lambda: save("never"),
        "deepspeed": lambda: engine.save_checkpoint(str(output / "deepspeed"), tag="full"),
    }
    for number in range(rounds + 1):
        if number == 1:  # the first round makes Adam's state and warms everything up
            for kept in times.values():
                kept.wall, kept.cpu, kept.main = [], [], []
        for name, work in works.items():
            for _ in range(steps):
                step()
            times[name].take(work, trainer.checkpoints.wait)
    newest = max((output / "checkpoints").glob("step-*"))
    return times, {"ours": size_of(newest), "full": size_of(output / "deepspeed")}


def timed_call(times: Times, call: Callable[[], Any]) -> Any:
    """Return the result of the call and take its time."""
    found = []
    times.take(lambda: found.append(call()))
    return found[0]


def size_of(folder: Path) -> int:
    """Bytes of all files."""
    return sum(p.stat().st_size for p in folder.rglob("*") if p.is_file())


def restarts(folder: Path, rounds: int) -> dict[str, Times]:
    """A killed run started again, and one that trains from zero, until their first step has ended."""
    found = {"run": Times(), "fresh": Times()}
    for _ in range(rounds):
        for name, times in found.items():
            if name == "fresh":
                shutil.rmtree(folder / name, ignore_errors=True)
            wall, cpu = first_step(folder, folder / name)
            times.wall.append(wall)
            times.cpu.append(cpu)
    return found


def first_step(folder: Path, output: Path) -> tuple[float, float]:
    """Seconds and CPU seconds from the start of a process to the end of its first step; then it is killed."""
    command = [sys.executable, "launch/train.py", str(folder / "recipe.yaml"), f"output={output}"]
    began, since = time.perf_counter(), time.time()
    alone = {name: value for name, value in os.environ.items() if name not in RENDEZVOUS}
    process = subprocess.Popen(command, cwd=ROOT, env=alone, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    try:
        while process.poll() is None and newest_row(output / "train.jsonl") < since:
            if time.perf_counter() - began > PATIENCE:
                raise RuntimeError(f"{' '.join(command)} made no step in {PATIENCE:.0f} s")
            time.sleep(0.02)
        wall = time.perf_counter() - began
        if process.poll() is not None:
            said = process.stderr.read().decode(errors="replace")[-2000:] if process.stderr else ""
            raise RuntimeError(f"{' '.join(command)} ended with {process.returncode} before its first step: {said}")
        fields = Path(f"/proc/{process.pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
        return wall, (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    finally:
        process.send_signal(signal.SIGKILL)
        process.communicate()


def newest_row(log: Path) -> float:
    """Time at which the last whole line of a log was written; 0 without one."""
    lines = log.read_text(encoding="utf-8").rpartition("\n")[0].splitlines() if log.exists() else []
    return float(json.loads(lines[-1])["time"]) if lines else 0.0


def figures_of(times: dict[str, Times], sizes: dict[str, int], starts: dict[str, Times]) -> dict[str, float]:
    """The report: medians of rounds."""
    middle = statistics.median
    step, save = middle(times["step"].cpu), middle(times["background"].cpu)
    stall, waiting = middle(times["background"].main), middle(times["waiting"].wall)
    paper_bytes, period = PAPER_PARAMETERS * BYTES_A_PARAMETER / PAPER_RANKS, PAPER_INTERVAL * PAPER_STEP
    paper = {name: paper_bytes / (sizes["ours"] / seconds) for name, seconds in (("copy", stall), ("cpu", save))}
    paper["waiting"] = paper_bytes / (sizes["ours"] / waiting)
    return {
        "mb": round(sizes["ours"] / 1e6, 2),
        "deepspeed_mb": round(sizes["full"] / 1e6, 2),
        "bytes_of_deepspeed": round(sizes["ours"] / sizes["full"], 4),
        "step_cpu_s": round(step, 4),
        "save_cpu_s": round(save, 4),
        "save_cpu_spread_s": round(max(times["background"].cpu) - min(times["background"].cpu), 4),
        "stall_background_cpu_s": round(stall, 4),
        "stall_background_s": round(middle(times["background"].wall), 4),
        "stall_waiting_s": round(waiting, 4),
        "stall_deepspeed_s": round(middle(times["deepspeed"].wall), 4),
        "deepspeed_cpu_s": round(middle(times["deepspeed"].cpu), 4),
        "share_at_10k": round(save / (PAPER_INTERVAL * step + save), 6),
        "paper_stall_s": round(paper["copy"], 1),
        "paper_save_cpu_s": round(paper["cpu"], 1),
        "paper_save_s": round(paper["waiting"], 1),
        "paper_share_at_10k": round(max(paper.values()) / (period + max(paper.values())), 6),
        "restart_cpu_s": round(middle(starts["run"].cpu), 1),
        "new_run_cpu_s": round(middle(starts["fresh"].cpu), 1),
        "restart_s": round(min(starts["run"].wall), 1),
        "new_run_s": round(min(starts["fresh"].wall), 1),
        "module_norms_cpu_ms": round(1000 * middle(times["norms"].cpu), 2),
        "module_norms_share_of_a_step": round(middle(times["norms"].cpu) / step, 4),
    }


def main() -> int:
    """Run, print the table and one line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="exit 1 where a target is missed")
    parser.add_argument("--rounds", type=int, default=5, help="saves of each kind")
    parser.add_argument("--steps", type=int, default=2, help="steps before each")
    parser.add_argument("--restarts", type=int, default=2, help="starts of each kind")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="speakerlm-bench-") as name:
        folder = Path(name)
        with contextlib.redirect_stdout(sys.stderr):
            times, sizes = train(make_recipe(folder), args.rounds, args.steps)
            print("saves are measured, the starts come")  # a start takes long on a busy machine
        shutil.rmtree(folder / "run" / "deepspeed")
        figures = figures_of(times, sizes, restarts(folder, args.restarts))
    load = os.getloadavg()[0]
    for key, value in figures.items():
        print(f"{key:<30}{value:>14,}" + (f"   at most {TARGETS[key]}" if key in TARGETS else ""))
    print(
        f"{args.rounds} saves of each kind in turns, {args.steps} steps before each, {args.restarts} starts of each; "
        f"load of the machine {load:.1f}"
    )
    met = all(figures[key] <= limit for key, limit in TARGETS.items())
    print(json.dumps({"name": "checkpoint", "figures": figures, "targets": TARGETS, "met": met}))
    return int(args.check and not met)


if __name__ == "__main__":
    sys.exit(main())
