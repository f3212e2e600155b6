"""Write samples as one tar and its index, atomically.

The tar has the bytes that ``webdataset.TarWriter`` writes (checked by a test), with every header field fixed, so that
they are a function of the samples; that writer copies all data three more times, and its package imports torch. The
index is written after the tar: a tar without its index is unfinished, and written again.
"""

from __future__ import annotations

import hashlib
import tarfile
from collections.abc import Iterable
from contextlib import ExitStack
from types import TracebackType
from typing import Any, BinaryIO

import pyarrow as pa
from fastcrc import crc32

from shards.dataset.dataset import DATASET, dataset_json
from shards.dataset.index import INDEX_SCHEMA, ShardInfo, ShardRecord, index_path, index_to_bytes, tar_path
from shards.errors import ManifestError
from shards.sample import SAMPLE_RATE, Sample
from shards.storage.interface import Storage

BLOCK, RECORD = tarfile.BLOCKSIZE, tarfile.RECORDSIZE  # a tar's size is a multiple of the latter


class ShardWriter:
    """Context manager that writes one shard.

    After the block, :attr:`record` describes it. After an error in the block, no file has its final name.
    """

    def __init__(self, storage: Storage, name: str, *, inputs: str = "") -> None:
        self.storage, self.name = storage, name
        self._inputs = inputs
        self.quarantine: list[dict[str, str]] = []
        self.self_enrolled = self.unenrolled = 0
        self.skipped_clips: list[dict[str, str]] = []
        self.record: ShardRecord | None = None
        self._rows: list[dict[str, Any]] = []
        self._keys: set[str] = set()

    def __enter__(self) -> ShardWriter:
        self._before = self.storage.version(index_path(self.name))
        with ExitStack() as stack:
            self._file = _Hashed(stack.enter_context(self.storage.create(tar_path(self.name))))
            self._stack = stack.pop_all()
        return self

    def write(self, sample: Sample) -> None:
        """Append a sample.

        Raises:
            ManifestError, SpeakerError: the sample contradicts itself, or its key is already in the shard.
        """
        sample.validate()
        if sample.key in self._keys:
            raise ManifestError(f"{sample.key}: duplicate key")
        self._keys.add(sample.key)
        row: dict[str, Any] = {
            "key": sample.key,
            "corpus": sample.corpus,
            "split": sample.split,
            "session": sample.session,
            "language": sample.language,
            "num_samples": sample.num_samples,
            "num_chars": sum(len(s.text) for s in sample.segments),
            "speakers": list(sample.speakers),
        }
        for member, data in sample.members().items():
            row[f"{member}_offset"] = self._append(sample.key, member, data)
            row[f"{member}_length"] = len(data)
            row[f"{member}_crc32"] = crc32.iso_hdlc(data)
        self._rows.append(row)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self._file.write(bytes(2 * BLOCK + -(self._file.count + 2 * BLOCK) % RECORD))  # the end of a tar
        self._stack.__exit__(kind, error, trace)
        if kind is not None:
            return
        info = ShardInfo(
            name=self.name,
            samples=len(self._rows),
            seconds=sum(row["num_samples"] for row in self._rows) / SAMPLE_RATE,
            bytes=self._file.count,
            sha256=self._file.sha256.hexdigest(),
        )
        enrolment = (self.self_enrolled, self.unenrolled, tuple(self.skipped_clips))
        self.record = ShardRecord(info, self._inputs, tuple(self.quarantine), *enrolment)
        table = pa.Table.from_pylist(self._rows, schema=INDEX_SCHEMA)
        self.storage.commit(index_path(self.name), index_to_bytes(table, self.record), self._before)

    def _append(self, key: str, member: str, data: bytes) -> int:
        """Write one member and return the offset of its data."""
        self._file.write(_header(f"{key}.{member}", len(data)))
        offset = self._file.count
        self._file.write(data)
        self._file.write(bytes(-len(data) % BLOCK))
        return offset


def _tarfile_header(name: str, size: int) -> bytes:
    info = tarfile.TarInfo(name)
    info.size, info.mode, info.mtime, info.uname, info.gname = size, 0o644, 0, "speakerlm", "speakerlm"
    return info.tobuf(tarfile.PAX_FORMAT, "utf-8", "surrogateescape")


_PLAIN = _tarfile_header("", 0)  # name at 0, size at 124, checksum at 148: sum of all bytes, itself as spaces
_PLAIN_SUM = int(_PLAIN[148:154], 8) - sum(b"0" * 11)


def _header(name: str, size: int) -> bytes:
    """Return the header of :func:`_tarfile_header`, at a tenth of its cost for plain names."""
    if len(name) > 100 or not name.isascii() or size >= 1 << 33:
        return _tarfile_header(name, size)
    header, field, digits = bytearray(_PLAIN), name.encode(), b"%011o" % size
    header[: len(field)] = field
    header[124:135] = digits
    header[148:154] = b"%06o" % (_PLAIN_SUM + sum(field) + sum(digits))
    return bytes(header)


def write_shard(storage: Storage, name: str, samples: Iterable[Sample]) -> ShardInfo:
    """Write samples as one shard."""
    with ShardWriter(storage, name) as writer:
        for sample in samples:
            writer.write(sample)
    assert writer.record is not None
    return writer.record.info


def write_dataset_json(storage: Storage, name: str, shards: list[ShardInfo], provenance: dict[str, Any]) -> None:
    """Write ``dataset.json``, the last file of a dataset."""
    storage.write_atomic(DATASET, dataset_json(name, shards, provenance))


class _Hashed:
    """A writable file that counts its bytes and computes their sha256."""

    def __init__(self, file: BinaryIO) -> None:
        self.file, self.count, self.sha256 = file, 0, hashlib.sha256()

    def write(self, data: bytes) -> int:
        self.sha256.update(data)
        self.count += len(data)
        return self.file.write(data)
