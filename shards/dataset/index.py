"""The index of a shard, and the dataset: what is in the tars, known without opening one.

``shards/NAME-000000.parquet`` has a row per sample (:data:`INDEX_SCHEMA`). Its file metadata (:class:`ShardRecord`)
commits the shard: it is written after the tar, and holds the tar's size and sha256. ``dataset.json`` lists the shards.
"""

from __future__ import annotations

import hashlib
import json
from collections import OrderedDict
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from shards.dataset import parquet
from shards.errors import ShardError, SpeakerError, SpeakerLMError
from shards.sample import FORMAT_VERSION, SAMPLE_RATE
from shards.storage.interface import Storage, open_storage

if TYPE_CHECKING:
    from shards.dataset.speaker_bank import SpeakerBank

DATASET = "dataset.json"
MEMBERS = ("flac", "json", "npy")  # in the order in which they lie in the tar
_SPAN = ("offset", "length", "crc32")
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
_CACHED_TABLES = 32  # the windows of two plans


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
    """What an index says about its shard as a whole."""

    info: ShardInfo
    inputs: str = ""  # hash of all that determined the shard's bytes; another one means: pack it again
    quarantine: tuple[dict[str, str], ...] = ()  # {file, key, reason} of what was left out
    self_enrolled: int = 0  # speaker vectors made from the sample's own speech, for want of other speech
    unenrolled: int = 0  # samples with such a vector because no enrolment clip of the speaker can be used
    skipped_clips: tuple[dict[str, str], ...] = ()  # {file, key, reason} of enrolment clips passed over


def tar_path(name: str) -> str:
    """Path of a shard's tar in the dataset."""
    return f"shards/{name}.tar"


def index_path(name: str) -> str:
    """Path of a shard's index in the dataset."""
    return f"shards/{name}.parquet"


def index_to_bytes(table: pa.Table, record: ShardRecord) -> bytes:
    """Parquet file with the record in its metadata; bytes are a function of the arguments."""
    metadata = {"format_version": FORMAT_VERSION} | asdict(record)
    blob = json.dumps(metadata, ensure_ascii=False, sort_keys=True).encode()
    return parquet.to_bytes(table.cast(INDEX_SCHEMA).replace_schema_metadata({_METADATA_KEY: blob}))


def index_from_bytes(data: bytes, where: str) -> tuple[pa.Table, ShardRecord]:
    """Inverse of :func:`index_to_bytes`. ShardError names `where`."""
    try:
        table = parquet.from_bytes(data)
        metadata = json.loads((table.schema.metadata or {})[_METADATA_KEY])
    except (pa.ArrowException, OSError, KeyError, ValueError) as error:
        raise ShardError(f"{where}: not a readable shard index ({error}); pack this part again") from error
    if metadata.pop("format_version") != FORMAT_VERSION:
        raise ShardError(f"{where}: index of another format version, this code reads {FORMAT_VERSION}; pack again")
    record = ShardRecord(
        ShardInfo(**metadata["info"]),
        metadata["inputs"],
        tuple(metadata["quarantine"]),
        metadata["self_enrolled"],
        metadata.get("unenrolled", 0),  # shards of earlier versions do not say these two
        tuple(metadata.get("skipped_clips", ())),
    )
    table = table.replace_schema_metadata(None)
    if not table.schema.equals(INDEX_SCHEMA):
        raise ShardError(f"{where}: columns are {table.schema.names}, expected {INDEX_SCHEMA.names}; pack again")
    return table, record


class Dataset:
    """A packed dataset. Cheap to open, safe to hand to another process."""

    def __init__(self, storage: Storage, info: dict[str, Any], extractor: str | None = None) -> None:
        self.storage, self.info, self.extractor = storage, info, extractor
        self.url: str = storage.url
        self.name: str = info["name"]
        self.shards = tuple(ShardInfo(**s) for s in info["shards"])
        self._tables: OrderedDict[int, pa.Table] = OrderedDict()
        self._vectors: OrderedDict[int, list[np.ndarray]] = OrderedDict()
        self._spans: OrderedDict[int, np.ndarray] = OrderedDict()

    def __getstate__(self) -> dict[str, Any]:
        state = self.__dict__ | {"_tables": OrderedDict(), "_vectors": OrderedDict(), "_spans": OrderedDict()}
        state.pop("speakers", None)
        return state

    def __repr__(self) -> str:
        return f"Dataset({self.url!r}, {len(self.shards)} shards, {self.samples} samples, {self.hours:.2f} h)"

    @property
    def samples(self) -> int:
        """Number of samples."""
        return sum(s.samples for s in self.shards)

    @property
    def hours(self) -> float:
        """Hours of audio."""
        return sum(s.seconds for s in self.shards) / 3600

    def index(self, shard: int) -> pa.Table:
        """Index of the shard at this position in :attr:`shards`; a few are kept in memory.

        Raises:
            ShardError: the index is damaged, or is not that of the shard which ``dataset.json`` lists.
        """
        if shard in self._tables:
            self._tables.move_to_end(shard)
        else:
            self._tables[shard] = self._read_index(self.shards[shard])
            if len(self._tables) > _CACHED_TABLES:
                self._tables.popitem(last=False)
        return self._tables[shard]

    def spans(self, shard: int) -> np.ndarray:
        """int64 (samples, members, 3): offset, length and crc32 of each of :data:`MEMBERS`; -1 where there is none.

        Raises:
            ShardError: as :meth:`index`.
        """
        if shard not in self._spans:
            table = self.index(shard)
            columns = [table[f"{m}_{what}"].cast(pa.int64()).fill_null(-1) for m in MEMBERS for what in _SPAN]
            self._spans[shard] = np.stack([c.to_numpy() for c in columns], 1).reshape(-1, len(MEMBERS), len(_SPAN))
            if len(self._spans) > _CACHED_TABLES:
                self._spans.popitem(last=False)
        return self._spans[shard]

    def vectors(self, shard: int) -> list[np.ndarray] | None:
        """(n_speakers, dim) float16 of each sample where the dataset was opened for another extractor, otherwise None.

        Raises:
            ShardError, StorageError: they are not there, or those of another shard.
            SpeakerError: they are of other weights than those of the first shard.
        """
        if self.extractor is None:
            return None
        if shard not in self._vectors:
            from shards.dataset.vectors import from_bytes, sidecar_path

            info = self.shards[shard]
            path = sidecar_path(info.name, self.extractor)
            keys = self.index(shard)["key"].to_pylist()
            where = f"{self.url}/{path}"
            found, made = from_bytes(self.storage.read(path), keys, info.sha256, where)
            if made["extractor_sha256"] != self._weights_of_vectors:
                raise SpeakerError(
                    f"{where}: its vectors are of other weights of {made['extractor']} than those of the first shard; "
                    "embed was not run to its end: run it again"
                )
            self._vectors[shard] = found
            if len(self._vectors) > _CACHED_TABLES:
                self._vectors.popitem(last=False)
        return self._vectors[shard]

    @cached_property
    def _weights_of_vectors(self) -> str | None:
        """sha256 of the extractor's weights, by the packing or the first shard's sidecar; None where it is not told."""
        if self.extractor is None:
            packed: str | None = self.info.get("provenance", {}).get("extractor_sha256")
            return packed
        from shards.dataset.vectors import about, sidecar_path

        path = sidecar_path(self.shards[0].name, self.extractor)
        first: str = about(self.storage.read(path), f"{self.url}/{path}")["extractor_sha256"]
        return first

    def made_with(self) -> str | None:
        """Id of the extractor of the speaker vectors; None where there are none.

        Raises:
            ConfigError: it was opened for an extractor whose vectors are not there for every shard.
        """
        from shards.dataset.vectors import made_with

        return made_with(self)

    def fingerprint(self) -> str:
        """Hash over the shards' content; changes when the data change, not when they move."""
        return hashlib.sha256("\n".join(s.sha256 for s in self.shards).encode()).hexdigest()

    @cached_property
    def speakers(self) -> SpeakerBank | None:
        """The speaker bank, where the dataset has one."""
        from shards.dataset.vectors import bank_paths

        table, vectors = bank_paths(self.extractor)
        if not self.storage.exists(table):
            return None
        from shards.dataset.speaker_bank import SpeakerBank

        bank = SpeakerBank.open(self.storage, table, vectors)
        of_samples = self._weights_of_vectors
        if of_samples and bank.extractor_sha256 and of_samples != bank.extractor_sha256:
            raise SpeakerError(
                f"{self.url}: the samples' vectors are of {self.made_with()} ({of_samples[:12]}), the speaker bank's "
                f"of {bank.extractor} ({bank.extractor_sha256[:12]}); vectors of two extractors cannot be mixed: "
                + ("run embed again" if self.extractor else "pack again")
            )
        return bank

    def _read_index(self, shard: ShardInfo) -> pa.Table:
        where = f"{self.url}/{shard.index}"
        table, record = index_from_bytes(self.storage.read(shard.index), where)
        if record.info != shard:
            raise ShardError(
                f"{where}: describes shard {record.info.name} with sha256 {record.info.sha256[:12]}, dataset.json "
                f"lists {shard.name} with {shard.sha256[:12]}; files were swapped, or pack's merge must be run again"
            )
        if table.num_rows != shard.samples:
            raise ShardError(f"{where}: has {table.num_rows} rows, dataset.json says {shard.samples} samples")
        return table


def open_dataset(url: str | Path, extractor: str | None = None) -> Dataset:
    """Open the dataset at a local folder or ``s3://bucket/prefix``.

    Args:
        extractor: take speaker vectors and bank from what ``embed`` wrote for this one; None: those of the packing.

    Raises:
        StorageError: there is none.
        ShardError: ``dataset.json`` is damaged or of another format version.
    """
    storage = open_storage(url)
    where = f"{storage.url}/{DATASET}"
    try:
        info = json.loads(storage.read(DATASET))
        if info["format_version"] != FORMAT_VERSION:
            raise ShardError(f"{where}: format version {info['format_version']}, this code reads {FORMAT_VERSION}")
        return Dataset(storage, info, extractor)
    except SpeakerLMError:
        raise
    except (ValueError, KeyError, TypeError) as error:
        raise ShardError(f"{where}: not a dataset description ({type(error).__name__}: {error})") from error


def dataset_json(name: str, shards: list[ShardInfo], provenance: dict[str, Any]) -> bytes:
    """Content of ``dataset.json``."""
    info = {
        "format_version": FORMAT_VERSION,
        "name": name,
        "sample_rate": SAMPLE_RATE,
        "samples": sum(s.samples for s in shards),
        "hours": round(sum(s.seconds for s in shards) / 3600, 6),
        "shards": [asdict(s) for s in shards],
        "provenance": provenance,
    }
    return json.dumps(info, ensure_ascii=False, indent=1).encode() + b"\n"
