"""The host's time for a step of the 7B recipe: a bare AdamW, ZeRO-2 and ZeRO-3, at its numbers of modules.

Stage 4, activation checkpointing, 28 layers and 70 encoder blocks at small widths, two gloo processes. What counts is
CPU time of the main thread: on a GPU it issues the kernels, and the card waits for it. Each engine runs in processes of
its own, in turn, for ``--rounds``; ratios are those of a round.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from pipeline.ranks.launch import free_port

ENGINES = ("bare", "zero2", "zero3")
TARGETS = {"zero3_over_bare": 2.5, "zero2_over_bare": 1.5, "zero3_step_collectives": 60}  # at most
WORLD = 2


def measure(engine: str, steps: int) -> dict[str, Any]:
    """One engine, in this process of two."""
    from benchmarks.support.host_step import HostStep, build_model, hooks
    from pipeline.ranks.launch import init_distributed

    ranks = init_distributed(300)
    model = build_model()
    modules = sum(1 for _ in model.modules())
    step = HostStep.of(engine, model, ranks.world_size)
    found: dict[str, Any] = {"seconds": step.seconds(steps), "modules": modules, "hooks": hooks(model)}
    if engine != "bare":
        found["collectives"] = step.collectives()
    if engine == "zero3":
        found["fetches"] = step.fetches()
    return found


def in_processes(engine: str, steps: int) -> dict[str, Any]:
    """Return the findings of rank 0 of two."""
    shared = {"WORLD_SIZE": str(WORLD), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    shared |= {"OMP_NUM_THREADS": "1", "DS_ACCELERATOR": "cpu", "CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable, __file__, "--engine", engine, "--steps", str(steps)]
    ranks = [
        subprocess.Popen(
            command,
            env={**os.environ, **shared, "RANK": str(r), "LOCAL_RANK": str(r)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for r in range(WORLD)
    ]
    outputs = [p.communicate() for p in ranks]
    if failed := [i for i, p in enumerate(ranks) if p.returncode]:
        raise SystemExit(f"{engine}: rank {failed[0]} failed\n{outputs[failed[0]][1][-3000:]}")
    found: dict[str, Any] = json.loads(outputs[0][0].splitlines()[-1])
    return found


def report(rounds: list[dict[str, dict[str, Any]]], check: bool) -> int:
    """The table and the line of JSON."""
    print(
        f"{'ms of the main thread':24}{'forward':>9}{'backward':>9}{'step':>9}{'all':>9}{'hooks':>8}{'collectives':>15}"
    )
    for engine in ENGINES:
        for found in (r[engine] for r in rounds):
            times = [1000 * found["seconds"][phase] for phase in ("forward", "backward", "step")]
            sent = " + ".join(str(n) for n in found.get("collectives", {}).values())
            print(f"{engine:24}" + "".join(f"{t:9.0f}" for t in [*times, sum(times)]) + f"{found['hooks']:8}{sent:>15}")
    total = [{e: sum(r[e]["seconds"].values()) for e in ENGINES} for r in rounds]
    figures: dict[str, float] = {}
    for engine in ENGINES[1:]:
        ratios = [t[engine] / t["bare"] for t in total]
        figures[f"{engine}_over_bare"] = statistics.median(ratios)
        print(f"{engine} over bare: {statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})")
    last = rounds[-1]["zero3"]
    figures |= {"zero3_step_collectives": last["collectives"]["step"], "zero3_fetches": last["fetches"]}
    print(f"{last['modules']:,} modules, {last['fetches']:,} module fetches in a forward and backward pass of ZeRO-3")
    met = all(figures[name] <= most for name, most in TARGETS.items())
    rounded = {name: round(value, 3) for name, value in figures.items()}
    print(json.dumps({"name": "host", "figures": rounded, "targets": TARGETS, "met": met}))
    return int(check and not met)


def main() -> int:
    """Run, print the table and one line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="exit 1 where a target is missed")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--steps", type=int, default=5, help="that are timed, after three")
    parser.add_argument("--engine", choices=ENGINES, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.engine:
        print(json.dumps(measure(args.engine, args.steps)), flush=True)
        os._exit(0)
    return report([{e: in_processes(e, args.steps) for e in ENGINES} for _ in range(args.rounds)], args.check)


if __name__ == "__main__":
    sys.exit(main())
