"""The index of a shard: a Parquet file with one row per sample (:data:`INDEX_SCHEMA`).

``shards/NAME-000000.parquet`` is written after the tar, and commits the shard: its file metadata
(:class:`ShardRecord`) holds the tar's size and sha256.
"""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from shards.dataset import parquet
from shards.errors import ShardError
from shards.sample import FORMAT_VERSION

AUDIO = "flac"
MEMBERS = (AUDIO, "json", "npy")  # in their order in the tar
INDEX_SCHEMA = pa.schema(
    [
        *(pa.field(name, pa.string(), nullable=False) for name in ("key", "corpus", "split", "session", "language")),
        pa.field("num_samples", pa.int64(), nullable=False),  # of audio, at 16 kHz
        pa.field("num_chars", pa.int32(), nullable=False),  # of text, over all segments
        pa.field("speakers", pa.list_(pa.string()), nullable=False),  # in order of first appearance
        *(
            pa.field(f"{member}_{what}", kind, nullable=member == "npy")
            for member in MEMBERS
            for what, kind in (("offset", pa.int64()), ("length", pa.int64()), ("crc32", pa.uint32()))
        ),
    ]
)
_METADATA_KEY = b"speakerlm"


@dataclass(frozen=True, slots=True)
class ShardInfo:
    """One row of ``dataset.json``."""

    name: str  # file name without its ending, e.g. "train-000000"
    samples: int
    seconds: float
    bytes: int  # of the tar
    sha256: str  # of the tar

    @property
    def tar(self) -> str:
        """Path of the tar in the dataset."""
        return tar_path(self.name)

    @property
    def index(self) -> str:
        """Path of the index in the dataset."""
        return index_path(self.name)


@dataclass(frozen=True, slots=True)
class ShardRecord:
    """Metadata of an index: the shard as a whole."""

    info: ShardInfo
    inputs: str = ""  # hash of all inputs of the shard's bytes; the shard is stale if it differs
    quarantine: tuple[dict[str, str], ...] = ()  # {file, key, reason} of skipped recordings
    self_enrolled: int = 0  # speaker vectors made from the sample's own speech: the speaker has no other
    unenrolled: int = 0  # samples with such a vector because all enrolment clips of the speaker are unusable
    skipped_clips: tuple[dict[str, str], ...] = ()  # {file, key, reason} of unusable enrolment clips


def tar_path(name: str) -> str:
    """Return the path of a shard's tar in the dataset."""
    return f"shards/{name}.tar"


def index_path(name: str) -> str:
    """Return the path of a shard's index in the dataset."""
    return f"shards/{name}.parquet"


def index_to_bytes(table: pa.Table, record: ShardRecord) -> bytes:
    """Serialise an index with the record in its metadata; the bytes are a function of the arguments."""
    metadata = {"format_version": FORMAT_VERSION} | asdict(record)
    blob = json.dumps(metadata, ensure_ascii=False, sort_keys=True).encode()
    return parquet.to_bytes(table.cast(INDEX_SCHEMA).replace_schema_metadata({_METADATA_KEY: blob}))


def index_from_bytes(data: bytes, where: str) -> tuple[pa.Table, ShardRecord]:
    """Parse an index; the inverse of :func:`index_to_bytes`.

    Raises:
        ShardError: damaged in any way, or of another format version. The message begins with `where`.
    """
    try:
        table = parquet.from_bytes(data)
        metadata = json.loads((table.schema.metadata or {})[_METADATA_KEY])
        version, record = metadata["format_version"], None
        if version == FORMAT_VERSION:
            record = _parse_record(metadata)
            table = table.replace_schema_metadata(None)
            _check_table(table)
    except Exception as error:  # damaged bytes raise anything, KeyError and UnicodeDecodeError among it
        why = " ".join(f"{type(error).__name__}: {error}".split())
        raise ShardError(f"{where}: not a readable shard index ({why}); run pack again") from error
    if record is None:
        raise ShardError(f"{where}: unsupported index format version, expected {FORMAT_VERSION}; run pack again")
    return table, record


def parse_shard_info(row: Any) -> ShardInfo:
    """Parse a row of ``dataset.json``, or its copy in an index.

    Raises:
        ValueError: a field is missing, unknown or of another type.
    """
    wanted: dict[str, Any] = {"name": str, "samples": int, "seconds": int | float, "bytes": int, "sha256": str}
    if not isinstance(row, dict) or row.keys() != wanted.keys():
        raise ValueError(f"a shard's row has the fields {', '.join(wanted)}, not {row!r}")
    for field, kind in wanted.items():
        value: Any = row[field]
        if not isinstance(value, kind) or isinstance(value, bool) or not (kind is str or 0 <= value < math.inf):
            raise ValueError(f"a shard's {field} is {value!r}")
    if "/" in row["name"] or "\0" in row["name"]:
        raise ValueError(f"a shard's name is {row['name']!r}")
    return ShardInfo(**row)


def _parse_record(metadata: dict[str, Any]) -> ShardRecord:
    """Parse the metadata of an index, of this version or an earlier one. Raises anything if they are damaged."""
    quarantine, clips = metadata["quarantine"], metadata.get("skipped_clips", ())
    counts = metadata["self_enrolled"], metadata.get("unenrolled", 0)
    if not all(isinstance(v, str) for entry in (*quarantine, *clips) for v in dict(entry).values()):
        raise ValueError("a skipped recording or clip is not listed as texts")
    if not all(type(count) is int and count >= 0 for count in counts):
        raise ValueError(f"self_enrolled and unenrolled are {counts}")
    if not isinstance(metadata["inputs"], str):
        raise ValueError(f"inputs is {metadata['inputs']!r}")
    info = parse_shard_info(metadata["info"])
    return ShardRecord(info, metadata["inputs"], tuple(quarantine), *counts, tuple(clips))


def _check_table(table: pa.Table) -> None:
    """Raise ValueError unless every value of an index is one that a packer can write."""
    if not table.schema.equals(INDEX_SCHEMA):
        raise ValueError(f"columns are {table.schema.names}, expected {INDEX_SCHEMA.names}")
    table.validate(full=True)  # text that is not UTF-8, lists out of bounds
    columns = {field.name: table[field.name] for field in INDEX_SCHEMA if not field.nullable}
    columns["speakers"] = pc.list_flatten(columns["speakers"])
    if table["speakers"].null_count or any(column.null_count for column in columns.values()):
        raise ValueError("a value is missing")
    for name, least in (("num_samples", 1), ("num_chars", 0)):
        if table.num_rows and pc.min(table[name]).as_py() < least:
            raise ValueError(f"{name} is {pc.min(table[name]).as_py()}")
