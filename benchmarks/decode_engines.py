"""vLLM against transformers on a packed test set, on this machine: clips a second with 1 and 16 clips at a time.

Both engines answer the prompts of mode no in the same process, in turns. Transformers takes batches of 1 and of 16, the
longest clips first, as speakerlm-decode does; vLLM has 1 and 16 requests open at any time, and its encoder runs ahead.
Tokens are compared: where two answers part, the margin of the logits is printed. Beside the ratio of wall times is that
of CPU times, which other work on the machine changes less. Target: with 16 at a time vLLM answers at least twice as
many clips a second, with the same tokens wherever the margin is above 1e-3. Run it in .venv-vllm:

    .venv-vllm/bin/python benchmarks/decode_engines.py demo/exp/stage4 demo/data/test-simulated --check
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.support.engines import Parting, partings
from pipeline.decode.engine import Engine, answer
from pipeline.decode.generate import Answer
from pipeline.decode.jobs import DecodeJob
from pipeline.decode.load_engine import load_engine, load_model
from pipeline.decode.requests import Requests
from pipeline.decode.test_set import clips_of, prompt_of
from pipeline.prompts import Prompt
from pipeline.recipe.load import load_recipe
from shards.arguments import positive
from shards.dataset.dataset import open_dataset

AT_A_TIME = (1, 16)
RATIO, MARGIN = 2.0, 1e-3


def read_prompts(run: Path, url: str, limit: int) -> list[Prompt]:
    """Return the prompts of the first clips by key, the longest first."""
    dataset, recipe = open_dataset(url), load_recipe(run / "config.yaml")
    clips = sorted(clips_of(dataset)[:limit], key=lambda c: (-c.samples, c.key))
    return [prompt_of(dataset, c.shard, c.row, DecodeJob("no", None, "no"), 1, recipe)[1] for c in clips]


def in_batches(engine: Engine, prompts: Sequence[Prompt], size: int) -> list[Answer]:
    """Answer batch after batch."""
    return [a for i in range(0, len(prompts), size) for a in answer(engine, prompts[i : i + size])]


def in_requests(requests: Requests, prompts: Sequence[Prompt], size: int) -> list[Answer]:
    """Keep so many requests open until all are answered."""
    with ThreadPoolExecutor(size) as clients:
        return list(clients.map(lambda prompt: requests.ask([prompt])[0], prompts))


Times = dict[str, list[tuple[float, float]]]


def measure(args: argparse.Namespace, prompts: Sequence[Prompt]) -> tuple[Times, list[Parting], int]:
    """Return wall and CPU seconds by engine and number at a time, partings of the answers to 16, and their tokens."""
    seconds: Times = {}
    last: dict[str, list[Answer]] = {}
    ours = load_engine(args.run, "cpu").engine
    with Requests(load_engine(args.run, "cpu", "vllm", batch=max(AT_A_TIME)).engine, max(AT_A_TIME)) as requests:
        in_batches(ours, prompts[:2], 2)
        in_requests(requests, prompts[:2], 2)
        for _ in range(args.rounds):
            for size in AT_A_TIME:
                for name in ("transformers", "vllm"):
                    began = time.monotonic(), time.process_time()
                    run: Any = in_batches if name == "transformers" else in_requests
                    last[name] = run(ours if name == "transformers" else requests, prompts, size)
                    took = time.monotonic() - began[0], time.process_time() - began[1]
                    seconds.setdefault(f"{name}_{size}", []).append(took)
    model, tokenizer, _, _ = load_model(args.run, "cpu")
    apart = partings(model, tokenizer, prompts, last["transformers"], last["vllm"])
    return seconds, apart, sum(a.tokens for a in last["vllm"])


def row(size: int, clips: int, seconds: Times) -> dict[str, Any]:
    """Print the line of a number at a time; return its figures."""
    ours, theirs = seconds[f"transformers_{size}"], seconds[f"vllm_{size}"]
    rates = [clips / statistics.median(wall for wall, _ in found) for found in (ours, theirs)]
    ratios = sorted(a[0] / b[0] for a, b in zip(ours, theirs, strict=True))
    ratio = statistics.median(ratios)
    cpu = statistics.median(a[1] / b[1] for a, b in zip(ours, theirs, strict=True))
    spread = f"{ratios[0]:.2f}–{ratios[-1]:.2f}"
    print(f"{size:10}{rates[0]:15.2f}{rates[1]:10.2f}{ratio:8.2f}{spread:>14}{cpu:11.2f}")
    return {
        f"transformers_{size}": round(rates[0], 3),
        f"vllm_{size}": round(rates[1], 3),
        f"ratio_{size}": round(ratio, 3),
        f"cpu_ratio_{size}": round(cpu, 3),
        f"spread_{size}": [round(ratios[0], 3), round(ratios[-1], 3)],
    }


def main() -> int:
    """Run, print the table and one line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="folder of a finished run")
    parser.add_argument("dataset", help="packed test set")
    parser.add_argument("--check", action="store_true", help="exit 1 where a target is missed")
    parser.add_argument("--clips", type=positive, default=96)
    parser.add_argument("--rounds", type=positive, default=3)
    args = parser.parse_args()
    prompts = read_prompts(args.run, args.dataset, args.clips)
    seconds, apart, tokens = measure(args, prompts)
    print(f"{len(prompts)} clips, {tokens} tokens, {args.rounds} rounds in turns, medians")
    print(f"{'at a time':>10}{'transformers':>15}{'vLLM':>10}{'ratio':>8}{'spread':>14}{'CPU ratio':>11}   clips/s")
    figures: dict[str, Any] = {"clips": len(prompts), "tokens": tokens, "parted": len(apart)}
    for size in AT_A_TIME:
        figures |= row(size, len(prompts), seconds)
    for parting in apart:
        print(parting)
    figures["largest_margin"] = max((abs(p.margin) for p in apart), default=0.0)
    met = figures["ratio_16"] >= RATIO and figures["largest_margin"] <= MARGIN
    targets = {"ratio_16": RATIO, "largest_margin": MARGIN}
    print(json.dumps({"name": "decode_engines", "figures": figures, "targets": targets, "met": met}))
    return int(args.check and not met)


if __name__ == "__main__":
    sys.exit(main())
