"""``speakerlm-shards info PATH``: summary of a dataset or of a manifest, as text or JSON."""

from __future__ import annotations

import argparse
import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.compute as pc

from shards.dataset.dataset import Dataset, is_manifest, open_dataset
from shards.manifests.manifest import read_audit
from shards.manifests.summary import audit_lines
from shards.sample import SAMPLE_RATE
from shards.spool import Spool, count_distinct, key_hash


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's options."""
    parser.add_argument("dataset", help="folder or s3://bucket/prefix of a dataset, or the folder of a manifest")
    parser.add_argument("--json", action="store_true", help="one line of JSON")


def run(args: argparse.Namespace) -> int:
    """Print the summary."""
    if is_manifest(args.dataset):
        return _print_manifest(Path(args.dataset), args.json)
    summary = summarize(open_dataset(args.dataset))
    if args.json:
        print(json.dumps(summary, ensure_ascii=False))
        return 0
    for name, value in summary.items():
        if isinstance(value, dict):
            print(f"{name}:")
            for key, count in value.items():
                print(f"  {key}: {count}")
        else:
            print(f"{name}: {value}")
    return 0


def _print_manifest(folder: Path, as_json: bool) -> int:
    """Print what the audit of a manifest says."""
    audit = read_audit(folder)
    if as_json:
        print(json.dumps({"manifest": str(folder)} | audit, ensure_ascii=False))
        return 0
    print(f"{folder}: a manifest, recordings that are not packed yet; speakerlm-shards pack {folder} OUT packs it")
    if "num_speakers" in audit:
        print("\n".join(audit_lines(folder, audit)))
    else:  # of clips
        print("\n".join(f"{name}: {value}" for name, value in audit.items()))
    return 0


def summarize(dataset: Dataset) -> dict[str, Any]:
    """Sum up ``dataset.json`` and all indexes; no tar is opened."""
    corpora: Counter[str] = Counter()
    languages: Counter[str] = Counter()
    per_sample: Counter[int] = Counter()
    sessions, speakers = Spool(np.uint64), Spool(np.uint64)  # hashes: there may be as many sessions as samples
    chars, seconds = 0, []
    for shard in range(len(dataset.shards)):
        table = dataset.index(shard)
        corpora.update(table["corpus"].to_pylist())
        languages.update(table["language"].to_pylist())
        per_sample.update(pc.list_value_length(table["speakers"]).to_pylist())
        for corpus, session in set(zip(table["corpus"].to_pylist(), table["session"].to_pylist(), strict=True)):
            sessions.append(key_hash(f"{corpus}\n{session}".encode()))
        for speaker in pc.list_flatten(table["speakers"]).unique().to_pylist():
            speakers.append(key_hash(speaker.encode()))
        if not table.num_rows:
            continue
        chars += pc.sum(table["num_chars"]).as_py()
        limits = pc.min_max(table["num_samples"]).as_py()
        seconds += [limits["min"] / SAMPLE_RATE, limits["max"] / SAMPLE_RATE]
    return {
        "name": dataset.name,
        "url": dataset.url,
        "shards": len(dataset.shards),
        "bytes": sum(s.bytes for s in dataset.shards),
        "samples": dataset.samples,
        "hours": round(dataset.hours, 4),
        "seconds_per_sample": f"{min(seconds, default=0):.2f}–{max(seconds, default=0):.2f}",
        "characters": chars,
        "sessions": count_distinct(sessions),
        "speakers": count_distinct(speakers),
        "samples_per_corpus": dict(sorted(corpora.items())),
        "samples_per_language": dict(sorted(languages.items())),
        "samples_by_number_of_speakers": dict(sorted(per_sample.items())),
        "fingerprint": dataset.fingerprint(),
        "provenance": {k: v for k, v in dataset.info["provenance"].items() if k != "config"},
    }
