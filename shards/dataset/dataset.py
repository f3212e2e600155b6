"""An opened dataset: the shards that ``dataset.json`` lists, their indexes, speaker vectors and speaker bank."""

from __future__ import annotations

import hashlib
import json
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from shards.dataset import sidecar
from shards.dataset.index import MEMBERS, ShardInfo, index_from_bytes, parse_shard_info
from shards.dataset.speaker_bank import SpeakerBank
from shards.errors import ConfigError, ShardError, SpeakerError, SpeakerLMError, StorageError
from shards.manifests.manifest import RECORDINGS
from shards.sample import FORMAT_VERSION, SAMPLE_RATE
from shards.storage.interface import Storage, open_storage

DATASET = "dataset.json"
_SPAN = ("offset", "length", "crc32")
_CACHED_TABLES = 32  # shards whose samples two plans mix at a time


@dataclass(frozen=True, slots=True)
class Places:
    """The columns of a shard's index that reading a sample needs, as Python's own objects: they are used row by row."""

    tar: str  # path in the dataset
    url: str  # of the tar
    bytes: int  # of the tar
    keys: list[str]
    said: list[tuple[str, tuple[str, ...]]]  # session and speakers; equal ones are one object
    spans: np.ndarray  # int64 (samples, members, 3): offset, length and crc32 of each of MEMBERS; -1 if missing

    @classmethod
    def of(cls, table: pa.Table, tar: str, url: str, size: int) -> Places:
        """Of an index."""
        columns = [table[f"{m}_{what}"].cast(pa.int64()).fill_null(-1) for m in MEMBERS for what in _SPAN]
        spans = np.stack([c.to_numpy() for c in columns], 1).reshape(-1, len(MEMBERS), len(_SPAN))
        known: dict[tuple[str, tuple[str, ...]], tuple[str, tuple[str, ...]]] = {}
        pairs = zip(table["session"].to_pylist(), map(tuple, table["speakers"].to_pylist()), strict=True)
        return cls(tar, url, size, table["key"].to_pylist(), [known.setdefault(p, p) for p in pairs], spans)


class Dataset:
    """A packed dataset. Cheap to open; can be pickled for another process."""

    def __init__(self, storage: Storage, info: dict[str, Any], extractor: str | None = None) -> None:
        self.storage, self.info, self.extractor = storage, info, extractor
        self.url: str = storage.url
        self.name: str = info["name"]
        self.shards = tuple(parse_shard_info(s) for s in info["shards"])
        self._tables: OrderedDict[int, pa.Table] = OrderedDict()
        self._vectors: OrderedDict[int, list[np.ndarray]] = OrderedDict()
        self._places: OrderedDict[int, Places] = OrderedDict()

    def __getstate__(self) -> dict[str, Any]:
        state = self.__dict__ | {"_tables": OrderedDict(), "_vectors": OrderedDict(), "_places": OrderedDict()}
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
        """Return the index of the shard at this position in :attr:`shards`; a few are cached.

        Raises:
            ShardError: the index is damaged, or belongs to another shard than the one that ``dataset.json`` lists.
        """
        if shard in self._tables:
            self._tables.move_to_end(shard)
        else:
            self._tables[shard] = self._read_index(self.shards[shard])
            if len(self._tables) > _CACHED_TABLES:
                self._tables.popitem(last=False)
        return self._tables[shard]

    def places(self, shard: int) -> Places:
        """Return what of a shard's index finds its samples; a few are cached.

        Raises:
            ShardError: as :meth:`index`.
        """
        places = self._places.get(shard)
        if places is None:
            info = self.shards[shard]
            places = Places.of(self.index(shard), info.tar, f"{self.url}/{info.tar}", info.bytes)
            self._places[shard] = places
            if len(self._places) > _CACHED_TABLES:
                self._places.popitem(last=False)
        return places

    def vectors(self, shard: int) -> list[np.ndarray] | None:
        """Return the sidecar's vectors, (n_speakers, dim) float16 of each sample; None for the vectors in the tars.

        Raises:
            ShardError, StorageError: the sidecar is missing, or belongs to another shard.
            SpeakerError: the vectors were made with other weights than those of the first shard.
        """
        if self.extractor is None:
            return None
        if shard not in self._vectors:
            info = self.shards[shard]
            path = sidecar.sidecar_path(info.name, self.extractor)
            keys = self.index(shard)["key"].to_pylist()
            where = f"{self.url}/{path}"
            found, metadata = sidecar.from_bytes(self.storage.read(path), keys, info.sha256, where)
            if metadata["extractor_sha256"] != self.extractor_sha256:
                raise SpeakerError(
                    f"{where}: vectors made with other weights of {metadata['extractor']} than those of the first "
                    "shard; embed did not finish, run it again"
                )
            self._vectors[shard] = found
            if len(self._vectors) > _CACHED_TABLES:
                self._vectors.popitem(last=False)
        return self._vectors[shard]

    @cached_property
    def extractor_sha256(self) -> str | None:
        """Return the sha256 of the extractor's weights, from ``dataset.json`` or the first sidecar; None if unknown."""
        if self.extractor is None:
            packed: str | None = self.info.get("provenance", {}).get("extractor_sha256")
            return packed
        path = sidecar.sidecar_path(self.shards[0].name, self.extractor)
        first: str = sidecar.read_metadata(self.storage.read(path), f"{self.url}/{path}")["extractor_sha256"]
        return first

    def extractor_id(self) -> str | None:
        """Return the id of the extractor that made the speaker vectors; None if the dataset has none.

        Raises:
            ConfigError: opened for an extractor whose vectors are missing for a shard.
        """
        if self.extractor is None:
            packed: str | None = self.info.get("provenance", {}).get("extractor")
            return packed
        present = set(self.storage.list("shards/"))
        wanted = [sidecar.sidecar_path(shard.name, self.extractor) for shard in self.shards]
        missing = [path for path in wanted if path not in present]
        missing += [path for path in sidecar.bank_paths(self.extractor) if not self.storage.exists(path)]
        if missing:
            raise ConfigError(
                f"{self.url}: no vectors of {self.extractor}: {len(missing)} files are missing, such as {missing[0]}; "
                f"run speakerlm-shards embed {self.url} --manifest MANIFEST --extractor {self.extractor}"
            )
        metadata = sidecar.read_metadata(self.storage.read(wanted[0]), f"{self.url}/{wanted[0]}")
        return str(metadata["extractor"])

    def fingerprint(self) -> str:
        """Return a hash of the shards' content; it changes when the data change, not when they move."""
        return hashlib.sha256("\n".join(s.sha256 for s in self.shards).encode()).hexdigest()

    @cached_property
    def speakers(self) -> SpeakerBank | None:
        """The speaker bank; None if the dataset has none."""
        table_path, vectors_path = sidecar.bank_paths(self.extractor)
        if not self.storage.exists(table_path):
            return None
        bank = SpeakerBank.open(self.storage, table_path, vectors_path)
        sha256 = self.extractor_sha256
        if sha256 and bank.extractor_sha256 and sha256 != bank.extractor_sha256:
            raise SpeakerError(
                f"{self.url}: the samples' vectors are of {self.extractor_id()} ({sha256[:12]}), the speaker bank's "
                f"of {bank.extractor} ({bank.extractor_sha256[:12]}); vectors of two extractors cannot be mixed: "
                + ("run embed again" if self.extractor else "run pack again")
            )
        return bank

    def _read_index(self, shard: ShardInfo) -> pa.Table:
        where = f"{self.url}/{shard.index}"
        table, record = index_from_bytes(self.storage.read(shard.index), where)
        if differing := differences(record.info, shard):
            raise ShardError(
                f"{where}: describes shard {record.info.name}, dataset.json lists {shard.name}: {differing}; "
                "files were swapped, or pack did not finish: run it again"
            )
        if table.num_rows != shard.samples:
            raise ShardError(f"{where}: has {table.num_rows} rows, dataset.json says {shard.samples} samples")
        return table


def differences(index: ShardInfo, listed: ShardInfo) -> str:
    """Return the fields in which an index and its row of ``dataset.json`` differ; empty if they are equal."""
    fields = [(name, value, getattr(listed, name)) for name, value in asdict(index).items()]
    return "; ".join(f"{name} is {a!r} in the index, {b!r} in {DATASET}" for name, a, b in fields if a != b)


def open_dataset(url: str | Path, extractor: str | None = None) -> Dataset:
    """Open the dataset in a local folder or at ``s3://bucket/prefix``.

    Args:
        extractor: read the speaker vectors and the bank that ``embed`` wrote for it; None: those in the tars.

    Raises:
        StorageError: no such dataset.
        ConfigError: it is a manifest.
        ShardError: ``dataset.json`` is damaged or of another format version.
    """
    storage = open_storage(url)
    where = f"{storage.url}/{DATASET}"
    try:
        info = json.loads(storage.read(DATASET))
        if info["format_version"] != FORMAT_VERSION:
            raise ShardError(f"{where}: format version {info['format_version']}, this code reads {FORMAT_VERSION}")
        if not isinstance(info["name"], str) or not isinstance(info.setdefault("provenance", {}), dict):
            raise ValueError(f"name is {info['name']!r}, provenance is {info.get('provenance')!r}")
        return Dataset(storage, info, extractor)
    except StorageError as error:
        if is_manifest(url):
            raise ConfigError(
                f"{url}: a manifest, not a dataset; pack it first: speakerlm-shards pack {url} OUT"
            ) from None
        if isinstance(error.__cause__, FileNotFoundError):
            raise StorageError(f"{error}; name a folder that speakerlm-shards pack wrote") from error
        raise
    except SpeakerLMError:
        raise
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise ShardError(f"{where}: not a dataset description ({type(error).__name__}: {error})") from error


def rounded_hours(shards: Sequence[ShardInfo]) -> float:
    """Return ``hours`` of ``dataset.json``."""
    return round(sum(s.seconds for s in shards) / 3600, 6)


def is_manifest(url: str | Path) -> bool:
    """Return whether this is the folder of a manifest, which is not packed yet."""
    folder = Path(url)
    return (folder / RECORDINGS).is_file() and not (folder / DATASET).exists()


def dataset_json(name: str, shards: list[ShardInfo], provenance: dict[str, Any]) -> bytes:
    """Serialise ``dataset.json``."""
    info = {
        "format_version": FORMAT_VERSION,
        "name": name,
        "sample_rate": SAMPLE_RATE,
        "samples": sum(s.samples for s in shards),
        "hours": rounded_hours(shards),
        "shards": [asdict(s) for s in shards],
        "provenance": provenance,
    }
    return json.dumps(info, ensure_ascii=False, indent=1).encode() + b"\n"
