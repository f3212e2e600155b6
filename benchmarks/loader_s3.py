"""The loader's rate from a real S3 server that is 20 and 100 ms away, against the same dataset on the local disk.

Rows go round in turn. All of the work is real: plan, ranged reads, crc32, FLAC, collation, in worker processes. The
server (RADOS Gateway, one store in memory), the proxy that holds requests back and the loader share this machine's
cores, which no training node does: so in addition to the rate of a loader that never waits, the rate is reported at
which a consumer is served that takes a micro-batch every so often, as a model does. It takes them at half of what the
local loader can give; a model takes far less than that.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.support.datasets import make_dataset
from benchmarks.support.latency import far
from benchmarks.support.rgw import gateway
from benchmarks.support.tiny import TEXTS
from pipeline.data.index_rows import DatasetSource
from pipeline.data.lengths import build_lengths
from pipeline.data.loader import Loader, SampleReader
from pipeline.data.plan import Plan
from pipeline.data.planned import PlanSettings
from pipeline.data.token_counter import TokenCounter
from pipeline.prompts import PromptTokenizer
from pipeline.recipe.schema import DataConfig, DatasetConfig, RegistrationConfig
from pipeline.standins.random_models import make_tokenizer
from shards.dataset.dataset import Dataset, open_dataset

TARGETS = {"20ms_over_local": 0.9}
DELAYS = (0.02, 0.1)


def loader(dataset: Dataset, tokenizer: PromptTokenizer, workers: int) -> Loader:
    """An epoch of it, with the budgets of a large model."""
    data = DataConfig(
        micro_batches_per_step=1,
        max_positions=6000,
        max_frames=12_000,
        window_shards=4,
        registration=RegistrationConfig(max_distractors=20),
    )
    settings = PlanSettings(1, True, 2, tokenizer.hash, data, epochs=1)
    plan = Plan(
        [DatasetSource(dataset, tokenizer.hash)],
        [DatasetConfig(path=dataset.url)],
        settings,
        TokenCounter(tokenizer),
    )
    return Loader(plan, SampleReader([dataset], tokenizer, 2, 192), workers=workers)


def rate(dataset: Dataset, tokenizer: PromptTokenizer, workers: int, pause: float) -> float:
    """Hours of audio a minute, after the first micro-batch; the consumer takes one every ``pause`` seconds at most."""
    steps = iter(loader(dataset, tokenizer, workers))
    next(steps)
    seconds, began = 0.0, time.perf_counter()
    due = began
    for step in steps:
        seconds += sum(b.audio_seconds for b in step.micro_batches)
        due = max(due + pause, time.perf_counter())
        time.sleep(max(0.0, due - time.perf_counter()))
    return seconds / 60 / (time.perf_counter() - began)


def main() -> int:
    """Run, print the table and one line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="exit 1 where a target is missed")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--samples", type=int, default=400)
    parser.add_argument("--seconds", type=float, default=20.0, help="length of a sample, on average")
    parser.add_argument("--workers", type=int, default=2)
    args = parser.parse_args()
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="speakerlm-bench-")))
        tokenizer = PromptTokenizer.from_folder(make_tokenizer(folder / "tokenizer", TEXTS))
        lengths = (0.5 * args.seconds, 1.5 * args.seconds)
        local = make_dataset(folder / "d", samples=args.samples, seconds=lengths, samples_per_shard=100)
        build_lengths(local, tokenizer)
        server = stack.enter_context(gateway())
        os.environ.update(server.environment)
        bucket, client = server.new_bucket(), server.client
        for path in local.storage.list():
            client.put_object(Bucket=bucket, Key=f"d/{path}", Body=local.storage.read(path))
        places = {"local": (local, server.endpoint)}
        for delay in DELAYS:
            endpoint = stack.enter_context(far(server.endpoint, delay)).endpoint
            os.environ["AWS_ENDPOINT_URL"] = endpoint
            places[f"{delay * 1000:g}ms"] = (open_dataset(f"s3://{bucket}/d"), endpoint)
        found: dict[str, dict[str, list[float]]] = {"free": {}, "paced": {}}
        pause = 0.0
        for number in range(args.rounds + 1):
            for kind, rows in found.items():
                for name, (dataset, endpoint) in places.items():
                    os.environ["AWS_ENDPOINT_URL"] = endpoint
                    taken = rate(dataset, tokenizer, args.workers, pause if kind == "paced" else 0.0)
                    rows.setdefault(name, []).extend([taken] if number else [])
                    if not number and kind == "free" and name == "local":
                        each = local.hours / len(list(loader(local, tokenizer, 0)))  # hours of a micro-batch
                        pause = 2 * each / taken * 60
    load = os.getloadavg()[0]
    size = sum(s.bytes for s in local.shards) / local.samples / 1e3
    print(
        f"{args.samples} samples of {args.seconds:g} s ({size:.0f} kB), {args.workers} workers, {os.cpu_count()} cores "
        f"with load {load:.1f}, {args.rounds} interleaved rounds; paced: a micro-batch every {pause:.2f} s"
    )
    figures: dict[str, float] = {}
    for kind, rows in found.items():
        for name, rates in rows.items():
            over = statistics.median(r / b for r, b in zip(rates, rows["local"], strict=True))
            figures[f"{name}_over_local_{kind}"] = round(over, 3)
            middle = statistics.median(rates)
            print(f"  {kind:6}{name:8}{middle:9.2f} h/min ({min(rates):.2f}-{max(rates):.2f})  {over:6.2f} x local")
    figures["20ms_over_local"] = min(figures["20ms_over_local_free"], figures["20ms_over_local_paced"])
    met = figures["20ms_over_local"] >= TARGETS["20ms_over_local"]
    print(json.dumps({"name": "loader_s3", "figures": figures, "targets": TARGETS, "met": met}))
    return int(args.check and not met)


if __name__ == "__main__":
    sys.exit(main())
