"""Arrays of hundreds of millions of numbers in temporary files, read in chunks or by position."""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Iterator
from typing import Any, BinaryIO, cast

import numpy as np

CHUNK = 1 << 22  # numbers that are in memory at a time
BUCKET = 1 << 24  # hashes compared at a time, about


class Spool:
    """A growing array of one dtype in a temporary file, which is deleted with the object.

    Args:
        chunk: numbers that are read at a time.
    """

    def __init__(self, dtype: Any, *, chunk: int = CHUNK) -> None:
        self.dtype, self.chunk = np.dtype(dtype), chunk
        self._file = cast(BinaryIO, tempfile.TemporaryFile())  # noqa: SIM115 (lives as long as the object)
        self._begin = 0  # byte offset of the first number in the file
        self._length = 0
        self._buffer: list[int] = []

    @classmethod
    def from_file(cls, file: BinaryIO, dtype: Any, begin: int, length: int) -> Spool:
        """Open `length` numbers of an existing file, from byte `begin`; read-only.

        Raises:
            ValueError: the file has another size.
        """
        spool = cls.__new__(cls)
        spool.dtype, spool.chunk = np.dtype(dtype), CHUNK
        spool._file, spool._begin, spool._length, spool._buffer = file, begin, length, []
        if os.fstat(file.fileno()).st_size != begin + length * spool.dtype.itemsize:
            raise ValueError(f"the file does not hold {length} numbers")
        return spool

    def __len__(self) -> int:
        return self._length + len(self._buffer)

    def append(self, value: int) -> None:
        """Append a number."""
        self._buffer.append(value)
        if len(self._buffer) >= self.chunk // 16:  # a Python list takes five times the memory
            self._flush()

    def at(self, positions: np.ndarray) -> np.ndarray:
        """Return the numbers at these positions, in this order."""
        self._flush()
        size = self.dtype.itemsize
        found = (os.pread(self._file.fileno(), size, self._begin + int(p) * size) for p in positions)
        return np.frombuffer(b"".join(found), self.dtype)

    def chunks(self) -> Iterator[tuple[int, np.ndarray]]:
        """Yield all numbers in chunks, as (position of the first, chunk)."""
        self._flush()
        size = self.dtype.itemsize
        for first in range(0, self._length, self.chunk):
            data = os.pread(
                self._file.fileno(), min(self.chunk, self._length - first) * size, self._begin + first * size
            )
            yield first, np.frombuffer(data, self.dtype)

    def _flush(self) -> None:
        if self._buffer:
            self._file.write(np.array(self._buffer, self.dtype).tobytes())
            self._file.flush()
            self._length += len(self._buffer)
            self._buffer.clear()


def find_duplicates(hashes: Spool, *, bucket_size: int = BUCKET) -> Iterator[list[int]]:
    """Yield the positions of each number (uint64) that occurs more than once.

    Hashes are compared one bucket at a time: the file is read once for every `bucket_size` numbers.
    """
    buckets = np.uint64(len(hashes) // bucket_size + 1)
    for bucket in range(int(buckets)):
        mine = np.concatenate([c[c % buckets == bucket] for _, c in hashes.chunks()] or [np.empty(0, hashes.dtype)])
        mine.sort()
        twice = np.unique(mine[1:][mine[1:] == mine[:-1]])
        del mine
        if len(twice):
            where: dict[int, list[int]] = {int(h): [] for h in twice}
            for first, chunk in hashes.chunks():
                for position in np.flatnonzero(np.isin(chunk, twice)):
                    where[int(chunk[position])].append(first + int(position))
            yield from where.values()


def count_distinct(hashes: Spool, *, bucket_size: int = BUCKET) -> int:
    """Count the distinct numbers."""
    buckets = np.uint64(len(hashes) // bucket_size + 1)
    count = 0
    for bucket in range(int(buckets)):
        found = [np.unique(c[c % buckets == bucket]) for _, c in hashes.chunks()]
        count += len(np.unique(np.concatenate(found))) if found else 0
    return count


def key_hash(key: bytes) -> int:
    """Return a 64-bit hash of a key."""
    return int.from_bytes(hashlib.blake2b(key, digest_size=8).digest(), "little")
