"""The storage interface, the same for local folders and ``s3://bucket/prefix``.

A storage is a root; all paths are relative to it, with forward slashes. Writes are atomic: an interrupted one leaves at
most a hidden temporary file (local) or an open multipart upload (S3), which the next attempt replaces or
:meth:`Storage.clean` removes. What fails after retries is a :class:`StorageError`, never the fault of one sample.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import BinaryIO, Protocol

from shards.errors import StorageError
from shards.storage.local import LocalStorage


class Storage(Protocol):
    """A root for files."""

    url: str

    def read(self, path: str) -> bytes:
        """Read the whole file."""
        ...

    def read_range(self, path: str, offset: int, length: int) -> bytes:
        """Read `length` bytes from `offset`; fewer at the end of the file, none beyond it."""
        ...

    def will_read(self, path: str, offset: int, length: int) -> None:
        """Announce :meth:`read_range`: a system that reads files ahead may begin with it. Never fails."""
        ...

    def read_ranges(self, path: str, ranges: Sequence[tuple[int, int]]) -> Iterator[bytes]:
        """Read many (offset, length) of one file as :meth:`read_range`, in order."""
        ...

    def stream(self, path: str) -> AbstractContextManager[BinaryIO]:
        """Open the whole file as a stream, for reading front to back."""
        ...

    def create(self, path: str, *, wait: bool = False) -> AbstractContextManager[BinaryIO]:
        """Open a file for writing; it appears under its name if the block ends without an error.

        If another process is writing it: a StorageError, or a wait with `wait`.
        """
        ...

    def write_atomic(self, path: str, data: bytes) -> None:
        """Write a whole file; a second writer waits for the first."""
        ...

    def version(self, path: str) -> str | None:
        """Return a tag that changes whenever the file is written, for :meth:`commit`; None if there is no file."""
        ...

    def commit(self, path: str, data: bytes, version: str | None) -> None:
        """Write as :meth:`write_atomic`, provided that the file still has this version.

        Raises:
            StorageError: another process wrote different content meanwhile. The same bytes are no error.
        """
        ...

    def clean(self, prefix: str) -> list[str]:
        """Remove leftovers of killed writers of files that begin with `prefix`; return their paths."""
        ...

    def exists(self, path: str) -> bool:
        """Return whether the file exists."""
        ...

    def size(self, path: str) -> int:
        """Return the size of the file in bytes."""
        ...

    def list(self, prefix: str = "") -> Iterator[str]:
        """List paths that begin with `prefix`, sorted, without temporary files."""
        ...

    def delete(self, path: str) -> None:
        """Remove the file; a missing one is no error."""
        ...

    def local_path(self, path: str) -> Path | None:
        """Return the path on this machine, for memory-mapping; None for remote storage."""
        ...


def open_storage(url: str | Path) -> Storage:
    """Open a local folder or ``s3://bucket/prefix``.

    Raises:
        StorageError: another kind of URL.
    """
    text = str(url)
    if text.startswith("s3://"):
        from shards.storage.s3 import S3Storage

        return S3Storage(text)
    if "://" in text:
        raise StorageError(f"{text}: unsupported URL scheme; use a local folder or s3://bucket/prefix")
    return LocalStorage(text)
