"""Read samples by position, through the index: ranged reads, every byte checked against its crc32.

The tar's own headers are not read: a reader that uses them takes a truncated tar, or one with damaged headers, for a
shorter shard, without an error. Here every sample of the index is read, or a :class:`ShardError` names shard, key and
offset.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from fastcrc import crc32

from shards.dataset.dataset import Dataset
from shards.dataset.index import AUDIO, MEMBERS
from shards.errors import DataError, ManifestError, ShardError
from shards.sample import Sample, parse_meta
from shards.sound.audio import decode
from shards.storage.interface import Storage

MAX_GAP = 2 << 20  # bytes: reading and dropping them takes less time than another request
MAX_READ = 8 << 20  # bytes of a merged read


def read_sample(dataset: Dataset, shard: int, row: int) -> Sample:
    """Read the sample in a row of a shard's index, by one ranged read.

    Raises:
        ShardError: bytes are missing or differ from what was packed.
        StorageError: the storage failed, after retries.
    """
    place = locate(dataset, shard, row)
    return place.parse(place.read(dataset.storage))


def locate(dataset: Dataset, shard: int, row: int) -> SampleLocation:
    """Return the byte ranges of a sample. Opens the shard's index if it is not in memory.

    Raises:
        ShardError, StorageError: the index cannot be read, or points outside the tar.
    """
    places = dataset.places(shard)
    vectors = None if dataset.extractor is None else dataset.vectors(shard)
    key, size = places.keys[row], places.bytes
    spans = []
    for member, (offset, length, crc) in zip(MEMBERS, places.spans[row].tolist(), strict=True):
        if offset == -1 or (vectors is not None and member == "npy"):
            continue
        if not 0 <= offset <= offset + length <= size:
            _Span.within(size, places.url, key, member, offset, length, crc)  # raises
        spans.append((member, offset, length, crc))
    first = min([offset for _, offset, _, _ in spans])
    length = max([offset + length for _, offset, length, _ in spans]) - first
    own = None if vectors is None else vectors[row]
    return SampleLocation(key, places.tar, places.url, first, length, spans, places.said[row], own)


@dataclass(slots=True)
class SampleLocation:
    """Byte ranges of a sample and their checksums. May be read in another thread."""

    key: str
    tar: str  # path in the dataset
    url: str  # of the tar
    offset: int
    length: int
    spans: list[tuple[str, int, int, int]]  # member, offset, length, crc32
    said: tuple[str, tuple[str, ...]]  # session and speakers by the index: names were given to voices by them
    vectors: np.ndarray | None  # that replace those in the tar

    def read(self, storage: Storage) -> bytes:
        """Read all of the sample's bytes; fewer if the tar is truncated."""
        return storage.read_range(self.tar, self.offset, self.length)

    def parse(self, read: bytes, *, audio: bool = True) -> Sample:
        """Parse the sample.

        Args:
            audio: copy its FLAC; without it, :meth:`decode` the bytes that were read.

        Raises:
            ShardError: bytes are missing or differ from what was packed, or the sample is not that of the index row.
        """
        members = {}
        view = memoryview(read)
        for member, offset, length, crc in self.spans:
            begin = offset - self.offset
            data = view[begin : begin + length]
            if len(data) != length or crc32.iso_hdlc(data) != crc:
                _Span(self.url, self.key, member, offset, length, crc).check(bytes(data))  # raises
            members[member] = bytes(data) if audio or member != AUDIO else b""
        try:
            sample = Sample.from_members(self.key, members)
        except (DataError, ValueError, KeyError, TypeError) as error:
            raise ShardError(f"{self._where}: not a sample ({error})") from error
        found = sample.session, sample.speakers
        if found != self.said:
            name, in_index, in_json = next(
                row for row in zip(("session", "speakers"), self.said, found, strict=True) if row[1] != row[2]
            )
            raise ShardError(
                f"{self._where}: the index has {name} {in_index!r}, the json {in_json!r}; the index is "
                "damaged or of another tar, copy or pack it again"
            )
        return sample if self.vectors is None else sample.with_embeddings(self.vectors)

    def decode(self, read: bytes) -> np.ndarray:
        """Decode the audio of bytes that :meth:`parse` has checked: float32 (num_samples,) in [-1, 1].

        Raises:
            AudioError: as :func:`shards.sound.audio.decode`.
        """
        begin, length = next((offset - self.offset, length) for m, offset, length, _ in self.spans if m == AUDIO)
        return decode(read[begin:] if begin else read, length)  # it is the first member: nothing is copied

    @property
    def _where(self) -> str:
        return _Span(self.url, self.key, *self.spans[0]).where


def read_meta(
    dataset: Dataset, shard: int, *, max_gap: int = MAX_GAP, max_read: int = MAX_READ
) -> list[dict[str, Any]]:
    """Read ``KEY.json`` of every sample of a shard, in the index's order, with the key added as ``key``.

    Args:
        max_gap: bytes between two members of a remote tar that are read together.
        max_read: bytes of such a read.

    Raises:
        ShardError, StorageError: as :func:`read_sample`.
    """
    columns = ["key", "json_offset", "json_length", "json_crc32"]
    spans = [_Span.of(dataset, shard, e, "json") for e in dataset.index(shard).select(columns).to_pylist()]
    remote = dataset.storage.local_path("") is None
    read = _read_merged(dataset.storage, dataset.shards[shard].tar, spans, max_gap if remote else 0, max_read)
    metas = []
    for span, data in zip(spans, read, strict=True):
        try:
            metas.append({"key": span.key} | parse_meta(span.key, span.check(data)))
        except (ManifestError, ValueError) as error:
            raise ShardError(f"{span.where}: {error}") from error
    return metas


def _read_merged(storage: Storage, tar: str, spans: Sequence[_Span], gap: int, max_read: int) -> Iterator[bytes]:
    """Yield the bytes of spans in order. Spans at most `gap` bytes apart are read together."""
    groups: list[list[_Span]] = []
    end = 0
    for span in spans:
        first = groups[-1][0].offset if groups else 0
        if not groups or not first <= span.offset <= end + gap or span.offset + span.length - first > max_read:
            groups.append([])
            end = span.offset
        groups[-1].append(span)
        end = max(end, span.offset + span.length)
    ranges = [(g[0].offset, max(s.offset + s.length for s in g) - g[0].offset) for g in groups]
    for group, data in zip(groups, storage.read_ranges(tar, ranges), strict=True):
        view = memoryview(data)
        yield from (bytes(view[s.offset - group[0].offset :][: s.length]) for s in group)


@dataclass(frozen=True, slots=True)
class _Span:
    """Byte range and checksum of one member of a tar."""

    tar: str
    key: str
    member: str
    offset: int
    length: int
    crc32: int

    @classmethod
    def of(cls, dataset: Dataset, shard: int, entry: dict[str, Any], member: str) -> _Span:
        """Return a member's span of an index row.

        Raises:
            ShardError: outside the tar.
        """
        info = dataset.shards[shard]
        span = (entry[f"{member}_{what}"] for what in ("offset", "length", "crc32"))
        return cls.within(info.bytes, f"{dataset.url}/{info.tar}", entry["key"], member, *span)

    @classmethod
    def within(cls, size: int, tar: str, key: str, member: str, offset: int, length: int, crc32: int) -> _Span:
        """Return a span of a tar of `size` bytes.

        Raises:
            ShardError: outside the tar.
        """
        span = cls(tar, key, member, offset, length, crc32)
        if not 0 <= offset <= offset + length <= size:
            raise ShardError(f"{span.where}: {length} bytes are outside a tar of {size} bytes; the index is damaged")
        return span

    @property
    def where(self) -> str:
        """Location for error messages."""
        return f"{self.tar}: {self.key}.{self.member} at offset {self.offset}"

    def check(self, data: bytes) -> bytes:
        """Return `data`, if length and crc32 are right."""
        if len(data) != self.length:
            raise ShardError(
                f"{self.where}: {len(data)} of {self.length} bytes; the tar is truncated; copy or pack it again"
            )
        found = crc32.iso_hdlc(data)
        if found != self.crc32:
            raise ShardError(
                f"{self.where}: crc32 {found:08x}, the index says {self.crc32:08x}; "
                "the tar is damaged or belongs to another index, copy or pack it again"
            )
        return data
