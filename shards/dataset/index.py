"""The index of a shard: a Parquet file with one row per sample (:data:`INDEX_SCHEMA`).

``shards/NAME-000000.parquet`` is written after the tar, and commits the shard: its file metadata
(:class:`ShardRecord`) holds the tar's size and sha256.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass

import pyarrow as pa

from shards.dataset import parquet
from shards.errors import ShardError
from shards.sample import FORMAT_VERSION

MEMBERS = ("flac", "json", "npy")  # in their order in the tar
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
        ShardError: damaged, or of another format version. The message begins with `where`.
    """
    try:
        table = parquet.from_bytes(data)
        metadata = json.loads((table.schema.metadata or {})[_METADATA_KEY])
    except (pa.ArrowException, OSError, KeyError, ValueError) as error:
        raise ShardError(f"{where}: not a readable shard index ({error}); run pack again") from error
    if metadata.pop("format_version") != FORMAT_VERSION:
        raise ShardError(f"{where}: unsupported index format version, expected {FORMAT_VERSION}; run pack again")
    record = ShardRecord(
        ShardInfo(**metadata["info"]),
        metadata["inputs"],
        tuple(metadata["quarantine"]),
        metadata["self_enrolled"],
        metadata.get("unenrolled", 0),  # absent from shards of earlier versions, as is the next one
        tuple(metadata.get("skipped_clips", ())),
    )
    table = table.replace_schema_metadata(None)
    if not table.schema.equals(INDEX_SCHEMA):
        raise ShardError(f"{where}: columns are {table.schema.names}, expected {INDEX_SCHEMA.names}; run pack again")
    return table, record
