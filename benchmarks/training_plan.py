"""Opening 42,000 shards with 300 million utterances and planning the first global step: time and memory of a process.

``dataset.json`` is really parsed; an index and its lengths are made up as Parquet when they are read, from a storage
that holds nothing else. Then the sessions of the first steps are counted against independent draws from all samples.
"""

from __future__ import annotations

import argparse
import io
import json
import resource
import sys
import time
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.support.planning import CharTokenizer
from pipeline.data.index_rows import DatasetSource
from pipeline.data.lengths import LENGTHS_VERSION, _schema
from pipeline.data.plan import Plan
from pipeline.data.plan_report import distinct_sessions
from pipeline.data.planned import PlanSettings
from pipeline.data.token_counter import TokenCounter
from pipeline.recipe.schema import DataConfig, DatasetConfig
from shards.dataset.dataset import Dataset, dataset_json
from shards.dataset.index import INDEX_SCHEMA, ShardInfo, ShardRecord, index_to_bytes

TARGETS = {"seconds": 10.0, "peak_gb": 1.0, "sessions": 0.9}
SECONDS = 7.2  # of a sample, on average
SESSIONS = 1_000_000  # a sample is of any, as packing permutes them


class LazyStorage:
    """Makes the files of a shard when they are read."""

    url = "lazy://corpus"

    def __init__(self, samples: int) -> None:
        self.samples = samples

    def local_path(self, path: str) -> None:
        """No file on this machine."""

    def exists(self, path: str) -> bool:
        """All shards and lengths do, a speaker bank does not."""
        return path.startswith("shards/")

    def read(self, path: str) -> bytes:
        """An index or its lengths."""
        name = Path(path).name.partition(".")[0]
        rng = np.random.default_rng(int(name.split("-")[1]))
        n = self.samples
        keys = pa.array([f"{name}-{i:05d}" for i in range(n)])
        if "lengths" in path:
            tokens = rng.integers(3, 60, n)
            rows = {"key": keys, "text_tokens": tokens[:, None].tolist(), "turn_speakers": [[0]] * n}
            columns = rows | {f.name: tokens for f in _schema() if f.name not in rows}
            table = pa.table({f.name: pa.array(columns[f.name], f.type) for f in _schema()}, schema=_schema())
            metadata = {"shard_sha256": info(int(name.split("-")[1]), n).sha256, "version": LENGTHS_VERSION}
            buffer = io.BytesIO()
            pq.write_table(table.replace_schema_metadata(metadata), buffer)
            return buffer.getvalue()
        columns = {"key": keys, "num_samples": (rng.uniform(0.2, 1.8, n) * SECONDS * 16_000).astype(int)}
        columns["session"] = [f"session-{i}" for i in rng.integers(SESSIONS, size=n)]
        columns["speakers"] = [["corpus:a"]] * n
        made = {f.name: pa.array(columns.get(f.name, _filler(f, n)), f.type) for f in INDEX_SCHEMA}
        return index_to_bytes(pa.table(made, schema=INDEX_SCHEMA), ShardRecord(info(int(name.split("-")[1]), n)))


def _filler(field: pa.Field, n: int) -> Any:
    return ["x"] * n if field.type == pa.string() else np.arange(n)


def info(number: int, samples: int) -> ShardInfo:
    """Entry of a shard in ``dataset.json``."""
    return ShardInfo(f"asr-{number:06d}", samples, samples * SECONDS, samples * 140_000, f"{number:064x}")


def main() -> int:
    """Run, print one line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="exit 1 where a target is missed")
    parser.add_argument("--shards", type=int, default=42_000)
    parser.add_argument("--samples", type=int, default=7_143, help="of a shard")
    parser.add_argument("--micro-batches", type=int, default=64, help="of a step")
    args = parser.parse_args()
    description = dataset_json("asr", [info(i, args.samples) for i in range(args.shards)], {})
    began = time.process_time()
    dataset = Dataset(LazyStorage(args.samples), json.loads(description))  # type: ignore[arg-type]
    data = DataConfig(micro_batches_per_step=args.micro_batches)
    settings = PlanSettings(1, False, 2, CharTokenizer.hash, data)
    source = DatasetSource(dataset, CharTokenizer.hash)
    plan = Plan([source], [DatasetConfig(path="asr")], settings, TokenCounter(CharTokenizer()))
    steps = iter(plan)
    first = next(steps)
    seconds = time.process_time() - began
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    found, expected = 0, 0.0
    for step in [first, *islice(steps, 9)]:
        n = sum(len(b.samples) for b in step.micro_batches if b is not None)
        found += distinct_sessions(step)
        expected += SESSIONS * (1 - (1 - 1 / SESSIONS) ** n)
    figures = {
        "rows": dataset.samples, "seconds": round(seconds, 2), "peak_gb": round(peak, 3),
        "sessions": round(found / expected, 3), "samples_a_step": n,
    }  # fmt: skip
    met = seconds < TARGETS["seconds"] and peak < TARGETS["peak_gb"] and found >= TARGETS["sessions"] * expected
    print(json.dumps({"name": "training_plan", "figures": figures, "targets": TARGETS, "met": met}))
    return int(args.check and not met)


if __name__ == "__main__":
    sys.exit(main())
