"""Samples by position, through the index: ranged reads, every byte checked against its crc32.

The tar's own headers are not read: a tar that was cut or whose headers are damaged reads elsewhere as a shorter shard
without an error. Here a sample is what the index says, or a :class:`ShardError` that names shard, key and offset.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from fastcrc import crc32

from shards.errors import DataError, ManifestError, ShardError
from shards.index import MEMBERS, Dataset
from shards.sample import Sample, parse_meta


def read_sample(dataset: Dataset, shard: int, row: int) -> Sample:
    """The sample in this row of this shard's index, by one ranged read.

    Raises:
        ShardError: bytes are missing or differ from what was packed.
        StorageError: the storage failed, after retries.
    """
    entry = dataset.index(shard).slice(row, 1).to_pylist()[0]
    vectors = dataset.vectors(shard)
    wanted = MEMBERS if vectors is None else MEMBERS[:2]
    spans = [_Span.of(dataset, shard, entry, m) for m in wanted if entry[f"{m}_offset"] is not None]
    first, last = min(s.offset for s in spans), max(s.offset + s.length for s in spans)
    data = dataset.storage.read_range(dataset.shards[shard].tar, first, last - first)
    members = {s.member: s.check(data[s.offset - first : s.offset - first + s.length]) for s in spans}
    try:
        sample = Sample.from_members(entry["key"], members)
    except (DataError, ValueError, KeyError, TypeError) as error:
        raise ShardError(f"{spans[0].where}: not a sample ({error})") from error
    return sample if vectors is None else sample.with_embeddings(vectors[row])


def read_meta(dataset: Dataset, shard: int) -> list[dict[str, Any]]:
    """``KEY.json`` of every sample of a shard, in the index's order, with the key added as ``key``.

    Raises:
        ShardError, StorageError: as :func:`read_sample`.
    """
    columns = ["key", "json_offset", "json_length", "json_crc32"]
    spans = [_Span.of(dataset, shard, e, "json") for e in dataset.index(shard).select(columns).to_pylist()]
    read = dataset.storage.read_ranges(dataset.shards[shard].tar, [(s.offset, s.length) for s in spans])
    metas = []
    for span, data in zip(spans, read, strict=True):
        try:
            metas.append({"key": span.key} | parse_meta(span.key, span.check(data)))
        except (ManifestError, ValueError) as error:
            raise ShardError(f"{span.where}: {error}") from error
    return metas


@dataclass(frozen=True, slots=True)
class _Span:
    """Where one member's data lie in a tar, and what they must be."""

    tar: str
    key: str
    member: str
    offset: int
    length: int
    crc32: int

    @classmethod
    def of(cls, dataset: Dataset, shard: int, entry: dict[str, Any], member: str) -> _Span:
        """The span that an index row gives for a member; one that does not lie in the tar is a ShardError."""
        info = dataset.shards[shard]
        offset, length, crc32 = (entry[f"{member}_{what}"] for what in ("offset", "length", "crc32"))
        span = cls(f"{dataset.url}/{info.tar}", entry["key"], member, offset, length, crc32)
        if not 0 <= offset <= offset + length <= info.bytes:
            raise ShardError(f"{span.where}: {length} bytes do not lie in a tar of {info.bytes}; the index is wrong")
        return span

    @property
    def where(self) -> str:
        """For error messages."""
        return f"{self.tar}: {self.key}.{self.member} at offset {self.offset}"

    def check(self, data: bytes) -> bytes:
        """`data` itself, if they are what was packed."""
        if len(data) != self.length:
            raise ShardError(f"{self.where}: {len(data)} of {self.length} bytes; the tar is cut, copy or pack it again")
        found = crc32.iso_hdlc(data)
        if found != self.crc32:
            raise ShardError(
                f"{self.where}: crc32 {found:08x}, the index says {self.crc32:08x}; "
                "the tar is damaged or belongs to another index, copy or pack it again"
            )
        return data
