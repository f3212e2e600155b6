"""Sidecar files: speaker vectors of another extractor than the one in the tars, one file per shard.

``shards/NAME-000000.embeddings-EXTRACTOR.parquet`` has one row per sample of the shard, in the index's order: `key`,
and `vectors`, the bytes of (n_speakers, dim) float16 in the order of the sample's speakers. Its metadata name the shard
and the extractor that it was made from, so that a file of another shard or extractor is refused. The speaker bank of
the extractor is ``speakers-EXTRACTOR.parquet`` and ``speakers-EXTRACTOR.npy``.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from shards.dataset import parquet
from shards.errors import ShardError

_KEY = b"speakerlm"
_SCHEMA = pa.schema([pa.field("key", pa.string(), nullable=False), pa.field("vectors", pa.binary(), nullable=False)])


def sidecar_path(shard: str, extractor: str) -> str:
    """Return the path of a shard's vectors; it holds only the name of an extractor ``NAME@SOURCE``."""
    return f"shards/{shard}.embeddings-{extractor.partition('@')[0]}.parquet"


def bank_paths(extractor: str | None) -> tuple[str, str]:
    """Return the paths of the speaker bank's table and vectors; None: the bank of the tars' extractor."""
    end = f"-{extractor.partition('@')[0]}" if extractor else ""
    return f"speakers{end}.parquet", f"speakers{end}.npy"


def skipped_clips_path(extractor: str | None) -> str:
    """Return the path of the list of enrolment clips that this extractor could not use."""
    end = f"-{extractor.partition('@')[0]}" if extractor else ""
    return f"skipped-clips{end}.jsonl"


def to_bytes(keys: Sequence[str], vectors: Sequence[np.ndarray], metadata: dict[str, Any]) -> bytes:
    """Serialise a sidecar; the bytes are a function of the arguments. `metadata` holds ``dim``."""
    data = [np.ascontiguousarray(v, "<f2").tobytes() for v in vectors]
    table = pa.table({"key": list(keys), "vectors": data}, schema=_SCHEMA)
    blob = json.dumps(metadata, sort_keys=True).encode()
    return parquet.to_bytes(table.replace_schema_metadata({_KEY: blob}))


def read_metadata(data: bytes, where: str) -> dict[str, Any]:
    """Return what a sidecar was made from, without reading its rows."""
    try:
        found: dict[str, Any] = json.loads(parquet.metadata(data)[_KEY])
        if not {"shard_sha256", "extractor", "extractor_sha256", "dim"} <= found.keys() or found["dim"] < 1:
            raise ValueError(f"its metadata are {found}")
    except Exception as error:  # damaged bytes raise anything
        why = " ".join(f"{type(error).__name__}: {error}".split())
        raise ShardError(f"{where}: not speaker vectors ({why}); run embed again") from error
    return found


def from_bytes(
    data: bytes, keys: Sequence[str], shard_sha256: str, where: str
) -> tuple[list[np.ndarray], dict[str, Any]]:
    """Parse a sidecar: (n_speakers, dim) float16 of each sample, and its metadata.

    Raises:
        ShardError: damaged, or made for another shard.
    """
    metadata = read_metadata(data, where)
    try:
        table = parquet.from_bytes(data).to_pydict()
        there, vectors = table["key"], [np.frombuffer(v, "<f2").reshape(-1, metadata["dim"]) for v in table["vectors"]]
    except Exception as error:  # as above
        why = " ".join(f"{type(error).__name__}: {error}".split())
        raise ShardError(f"{where}: not speaker vectors ({why}); run embed again") from error
    if metadata["shard_sha256"] != shard_sha256 or there != list(keys):
        raise ShardError(f"{where}: made for another shard; run embed again")
    return vectors, metadata
