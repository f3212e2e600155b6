"""Speaker vectors of another extractor than the one in the tars: a sidecar per shard, aligned to its index.

``shards/NAME-000000.embeddings-EXTRACTOR.parquet`` has a row per sample of the shard, in the index's order: `key`, and
`vectors`, the bytes of (n_speakers, dim) float16 in the order of the sample's speakers. Its metadata say what it was
made from, so that one of another shard or extractor is not taken for this one's. The bank beside it is
``speakers-EXTRACTOR.parquet`` and ``speakers-EXTRACTOR.npy``.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from shards.dataset import parquet
from shards.errors import ConfigError, ShardError

if TYPE_CHECKING:
    from shards.dataset.index import Dataset

_KEY = b"speakerlm"
_SCHEMA = pa.schema([pa.field("key", pa.string(), nullable=False), pa.field("vectors", pa.binary(), nullable=False)])


def sidecar_path(shard: str, extractor: str) -> str:
    """Path of the vectors of a shard; of an extractor ``NAME@SOURCE`` the name alone is in it."""
    return f"shards/{shard}.embeddings-{extractor.partition('@')[0]}.parquet"


def bank_paths(extractor: str | None) -> tuple[str, str]:
    """Table and vectors of the speaker bank; None is that of the tars' extractor."""
    end = f"-{extractor.partition('@')[0]}" if extractor else ""
    return f"speakers{end}.parquet", f"speakers{end}.npy"


def skipped_clips_path(extractor: str | None) -> str:
    """Path of the list of enrolment clips that gave this extractor no vector."""
    end = f"-{extractor.partition('@')[0]}" if extractor else ""
    return f"skipped-clips{end}.jsonl"


def to_bytes(keys: Sequence[str], vectors: Sequence[np.ndarray], about: dict[str, Any]) -> bytes:
    """The sidecar; bytes are a function of the arguments. `about` holds ``dim``."""
    data = [np.ascontiguousarray(v, "<f2").tobytes() for v in vectors]
    table = pa.table({"key": list(keys), "vectors": data}, schema=_SCHEMA)
    metadata = {_KEY: json.dumps(about, sort_keys=True).encode()}
    return parquet.to_bytes(table.replace_schema_metadata(metadata))


def about(data: bytes, where: str) -> dict[str, Any]:
    """What a sidecar was made from."""
    try:
        found: dict[str, Any] = json.loads(parquet.metadata(data)[_KEY])
    except (pa.ArrowException, OSError, KeyError, ValueError) as error:
        raise ShardError(f"{where}: not speaker vectors ({error}); run embed again") from error
    return found


def from_bytes(
    data: bytes, keys: Sequence[str], shard_sha256: str, where: str
) -> tuple[list[np.ndarray], dict[str, Any]]:
    """(n_speakers, dim) float16 of each sample, and what they were made from.

    Raises:
        ShardError: not of this shard.
    """
    made = about(data, where)
    table = parquet.from_bytes(data).to_pydict()
    if made["shard_sha256"] != shard_sha256 or table["key"] != list(keys):
        raise ShardError(f"{where}: made for another shard than the one beside it; run embed again")
    return [np.frombuffer(v, "<f2").reshape(-1, made["dim"]) for v in table["vectors"]], made


def made_with(dataset: Dataset) -> str | None:
    """Id of the extractor of a dataset's vectors; None where it has none.

    Raises:
        ConfigError: it was opened for an extractor whose vectors are not there for every shard.
    """
    if dataset.extractor is None:
        found: str | None = dataset.info.get("provenance", {}).get("extractor")
        return found
    there = set(dataset.storage.list("shards/"))
    wanted = [sidecar_path(shard.name, dataset.extractor) for shard in dataset.shards]
    missing = [path for path in wanted if path not in there]
    missing += [path for path in bank_paths(dataset.extractor) if not dataset.storage.exists(path)]
    if missing:
        raise ConfigError(
            f"{dataset.url}: no vectors of {dataset.extractor}: {len(missing)} files are missing, as {missing[0]}; "
            f"make them by speakerlm-shards embed {dataset.url} --manifest MANIFEST --extractor {dataset.extractor}"
        )
    return str(about(dataset.storage.read(wanted[0]), f"{dataset.url}/{wanted[0]}")["extractor"])
