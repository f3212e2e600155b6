"""``speakerlm-shards verify DATASET``: read everything and report every fault.

A shard is read once, front to back. Its sha256 and size are compared with ``dataset.json``, the names and offsets of
its members (by tarfile) with the index, and the content of each sample with its index row and itself.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import tarfile
from collections.abc import Iterator
from typing import Any, BinaryIO

import numpy as np

from shards.dataset.dataset import Dataset, open_dataset
from shards.dataset.index import MEMBERS
from shards.dataset.reader import read_sample
from shards.errors import DataError, ShardError, StorageError
from shards.sample import Sample
from shards.sound.audio import decode
from shards.spool import Spool, find_duplicates, key_hash

UNIT_NORM = 0.01  # float16 rounds a unit vector by far less


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's options."""
    parser.add_argument("dataset", help="folder or s3://bucket/prefix")
    parser.add_argument("--quick", action="store_true", help="sizes, checksums and counts only; no audio is decoded")


def run(args: argparse.Namespace) -> int:
    """Print every fault, then one line of JSON; return 1 if there is a fault."""
    from tqdm import tqdm

    dataset = open_dataset(args.dataset)
    faults = 0
    for shard in tqdm(range(len(dataset.shards)), disable=None, unit="shard"):
        for fault in shard_faults(dataset, shard, decode_audio=not args.quick):
            faults += 1
            tqdm.write(fault)
    for fault in dataset_faults(dataset):
        faults += 1
        print(fault)
    summary = {"command": "verify", "dataset": dataset.url, "shards": len(dataset.shards), "samples": dataset.samples}
    print(json.dumps(summary | {"hours": round(dataset.hours, 4), "faults": faults}))
    return 1 if faults else 0


def shard_faults(dataset: Dataset, shard: int, *, decode_audio: bool = True) -> Iterator[str]:
    """Yield the faults of one shard, one line each."""
    where = f"{dataset.url}/{dataset.shards[shard].tar}"
    try:
        rows = dataset.index(shard).to_pylist()
    except (ShardError, StorageError) as error:
        yield str(error)
        return
    try:
        with dataset.storage.stream(dataset.shards[shard].tar) as file:
            yield from (f"{where}: {fault}" for fault in _tar_faults(dataset, shard, rows, file))
    except StorageError as error:
        yield str(error)
        return
    for number, row in enumerate(rows):
        try:
            sample = read_sample(dataset, shard, number)
        except (ShardError, StorageError) as error:
            yield str(error)
            continue
        yield from (f"{where}: {row['key']}: {fault}" for fault in _sample_faults(sample, row, decode_audio))


def dataset_faults(dataset: Dataset) -> Iterator[str]:
    """Yield the faults of the dataset: totals, duplicate keys, the speaker bank."""
    if dataset.info["samples"] != dataset.samples:
        yield f"{dataset.url}: dataset.json says {dataset.info['samples']} samples, its shards sum to {dataset.samples}"
    yield from _key_faults(dataset)
    yield from _bank_faults(dataset)


def _key_faults(dataset: Dataset) -> Iterator[str]:
    """Yield duplicate keys, found by their hashes: there may be hundreds of millions of keys."""
    hashes, places = Spool(np.uint64), Spool(np.int64)
    for shard in range(len(dataset.shards)):
        try:
            keys = dataset.index(shard)["key"].to_pylist()
        except (ShardError, StorageError):
            continue  # reported with its shard
        for row, key in enumerate(keys):
            hashes.append(key_hash(key.encode()))
            places.append(shard << 32 | row)
    for positions in find_duplicates(hashes):
        seen: set[str] = set()
        for place in places.at(np.array(positions)):
            shard, row = int(place) >> 32, int(place) & 0xFFFFFFFF
            key = dataset.index(shard)["key"][row].as_py()
            if key in seen:
                where = f"{dataset.url}/{dataset.shards[shard].index}"
                yield f"{where}: {key}: duplicate key"
            seen.add(key)


def _tar_faults(dataset: Dataset, shard: int, rows: list[dict[str, Any]], file: BinaryIO) -> Iterator[str]:
    """Check hash and size of the tar, and its members against the index."""
    info = dataset.shards[shard]
    digest, size = hashlib.sha256(), 0
    while block := file.read(1 << 20):
        digest.update(block)
        size += len(block)
    if size != info.bytes:
        yield f"tar of {size} bytes, dataset.json says {info.bytes}"
    if digest.hexdigest() != info.sha256:
        yield f"sha256 is {digest.hexdigest()}, dataset.json says {info.sha256}"
    file.seek(0)
    wanted = {
        row[f"{m}_offset"]: (f"{row['key']}.{m}", row[f"{m}_length"])
        for row in rows
        for m in MEMBERS
        if row[f"{m}_offset"] is not None
    }
    try:
        with tarfile.open(fileobj=file, mode="r:") as tar:
            found = {member.offset_data: (member.name, member.size) for member in tar}
    except tarfile.TarError as error:
        yield f"not readable as a tar: {error}"
        return
    for offset in sorted(wanted.keys() | found.keys()):
        if wanted.get(offset) != found.get(offset):
            (name, length), (tar_name, tar_length) = (d.get(offset, ("nothing", 0)) for d in (wanted, found))
            yield f"at offset {offset} the index has {name} ({length} bytes), the tar {tar_name} ({tar_length} bytes)"


def _sample_faults(sample: Sample, row: dict[str, Any], decode_audio: bool) -> Iterator[str]:
    """Check the content of one sample against its index row and itself."""
    try:
        sample.validate()
    except DataError as error:
        yield str(error)
        return
    yield from _row_faults(sample, row)
    for segment in sample.segments:
        if not segment.text.strip():
            yield f"segment of {segment.speaker} at {segment.start:.2f} s has no text"
    if sample.embeddings is not None:
        norms = np.linalg.norm(sample.embeddings.astype(np.float32), axis=1)
        if np.abs(norms - 1).max(initial=0) > UNIT_NORM:
            yield f"speaker vectors of norm {', '.join(f'{n:.3f}' for n in norms)}, expected 1"
    if decode_audio:
        try:
            decoded = len(decode(sample.audio))
        except DataError as error:
            yield str(error)
            return
        if decoded != sample.num_samples:
            yield f"audio has {decoded} samples, its json says {sample.num_samples}"


def _row_faults(sample: Sample, row: dict[str, Any]) -> Iterator[str]:
    """Check the columns of the index that repeat the json."""
    said = {name: getattr(sample, name) for name in ("corpus", "split", "session", "language", "num_samples")}
    said |= {"speakers": list(sample.speakers), "num_chars": sum(len(s.text) for s in sample.segments)}
    for name, value in said.items():
        if row[name] != value:
            yield f"the index has {name} {row[name]!r}, the json {value!r}"


def _bank_faults(dataset: Dataset) -> Iterator[str]:
    try:
        bank = dataset.speakers
    except (DataError, StorageError) as error:
        yield str(error)
        return
    if bank is None:
        return
    vectors = np.asarray(bank.vectors, dtype=np.float32)
    norms = np.linalg.norm(vectors, axis=1)
    for row in np.flatnonzero(~(np.abs(norms - 1) <= UNIT_NORM)):
        yield f"{dataset.url}/speakers.npy: row {row} ({bank.ids[row]}): norm {norms[row]:.3f}, expected 1"
