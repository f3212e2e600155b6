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

from shards.dataset.dataset import DATASET, Dataset, open_dataset, rounded_hours
from shards.dataset.index import MEMBERS, index_from_bytes
from shards.dataset.reader import read_sample
from shards.dataset.speaker_bank import TABLE, bank_fault
from shards.errors import DataError, ShardError, StorageError
from shards.sample import SAMPLE_RATE, Sample
from shards.sound.audio import decode
from shards.spool import Spool, find_duplicates, key_hash
from shards.workers import progress

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
    for shard in progress(range(len(dataset.shards)), unit="shard"):
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
    info = dataset.shards[shard]
    where = f"{dataset.url}/{info.tar}"
    try:
        rows = dataset.index(shard).to_pylist()
    except (ShardError, StorageError) as error:
        yield str(error)
        return
    seconds = sum(row["num_samples"] for row in rows) / SAMPLE_RATE
    if seconds != info.seconds:
        yield f"{dataset.url}/{info.index}: seconds is {info.seconds!r}, its rows sum to {seconds!r}"
    try:
        with dataset.storage.stream(info.tar) as file:
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
        dim = dataset.info["provenance"].get("extractor_dim")
        yield from (f"{where}: {row['key']}: {fault}" for fault in _sample_faults(sample, row, dim, decode_audio))


def dataset_faults(dataset: Dataset) -> Iterator[str]:
    """Yield the faults of the dataset: ``dataset.json``, duplicate keys, the speaker bank."""
    yield from _description_faults(dataset)
    yield from _key_faults(dataset)
    banks = {path for path in dataset.storage.list("speakers") if path.endswith(".parquet")}
    banks |= {TABLE} if dataset.extractor_id() else set()
    for table in sorted(banks):  # that of the tars' extractor, and those that `embed` wrote
        fault = bank_fault(dataset.storage, table, table.removesuffix(".parquet") + ".npy")
        if fault is not None:
            yield fault
        elif table == TABLE:
            yield from _bank_faults(dataset)


def _description_faults(dataset: Dataset) -> Iterator[str]:
    """Check the fields of ``dataset.json`` against the shards' indexes; :meth:`Dataset.index` checks its rows."""
    where, info = f"{dataset.url}/{DATASET}", dataset.info
    names = [shard.name for shard in dataset.shards]
    for name in sorted({n for n in names if names.count(n) > 1}):
        yield f"{where}: shard {name} is listed {names.count(name)} times"
    self_enrolled = 0
    for path in _index_paths(dataset):
        stem = path.removeprefix("shards/").removesuffix(".parquet")
        try:
            _, record = index_from_bytes(dataset.storage.read(path), f"{dataset.url}/{path}")
        except (ShardError, StorageError) as error:
            if stem not in names:  # else reported with its shard
                yield str(error)
            continue
        self_enrolled += record.self_enrolled
        if stem not in names and record.info.samples:  # a part of which nothing could be packed has no row
            yield f"{where}: no row for shard {stem}, whose index has {record.info.samples} samples; run pack again"
    said = [
        ("sample_rate", info.get("sample_rate"), SAMPLE_RATE),
        ("samples", info.get("samples"), dataset.samples),
        ("hours", info.get("hours"), rounded_hours(dataset.shards)),
        ("provenance.self_enrolled", info["provenance"].get("self_enrolled", self_enrolled), self_enrolled),
    ]
    yield from (f"{where}: {name} is {a!r}, the shards have {b!r}" for name, a, b in said if a != b)
    source = info["provenance"]
    config = source.get("config")
    if isinstance(config, dict):  # the indexes have only a hash of these, together with the manifest's
        for name in ("seed", "extractor_sha256"):
            if name in source and name in config and source[name] != config[name]:
                yield f"{where}: provenance.{name} is {source[name]!r}, its config has {config[name]!r}"


def _index_paths(dataset: Dataset) -> Iterator[str]:
    """Yield the paths of all indexes in the storage, also of shards that ``dataset.json`` does not list."""
    for path in dataset.storage.list("shards/"):
        if path.endswith(".parquet") and ".lengths-" not in path and ".embeddings-" not in path:
            yield path


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


def _sample_faults(sample: Sample, row: dict[str, Any], dim: int | None, decode_audio: bool) -> Iterator[str]:
    """Check the content of one sample against its index row and itself; ``dim``: of ``dataset.json``'s extractor."""
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
        if dim is not None and sample.embeddings.shape[1] != dim:
            yield f"speaker vectors of {sample.embeddings.shape[1]} dimensions, dataset.json says {dim}"
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
