"""The storage interface: local folders and ``s3://bucket/prefix`` read and written alike.

A storage is a root; all paths are relative to it, with forward slashes. A file appears under its name whole or not at
all, and a write that is cut off leaves at most a hidden temporary file (local) or an open multipart upload (S3), which
the next attempt takes over or :meth:`Storage.clean` removes. Whatever fails after retries is a :class:`StorageError`:
it is never the fault of one sample.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import BinaryIO, Protocol

from shards.errors import StorageError
from shards.storage.local import LocalStorage


class Storage(Protocol):
    """What the rest of the code knows about a place for files."""

    url: str

    def read(self, path: str) -> bytes:
        """The whole file."""
        ...

    def read_range(self, path: str, offset: int, length: int) -> bytes:
        """`length` bytes from `offset`; fewer where the file ends before, none where it ends before `offset`."""
        ...

    def read_ranges(self, path: str, ranges: Sequence[tuple[int, int]]) -> Iterator[bytes]:
        """:meth:`read_range` for many (offset, length) of one file, in order."""
        ...

    def stream(self, path: str) -> AbstractContextManager[BinaryIO]:
        """The whole file as a stream, for reading front to back."""
        ...

    def create(self, path: str, *, wait: bool = False) -> AbstractContextManager[BinaryIO]:
        """A file to write; it appears under its name when the block ends without an error, otherwise never.

        Where another process is writing it, that is a StorageError, or with `wait` a wait.
        """
        ...

    def write_atomic(self, path: str, data: bytes) -> None:
        """Put `data` in place whole; a second writer waits for the first."""
        ...

    def version(self, path: str) -> str | None:
        """What :meth:`commit` compares: changes whenever the file is written. None where there is no file."""
        ...

    def commit(self, path: str, data: bytes, version: str | None) -> None:
        """:meth:`write_atomic`, provided that the file still is of this version.

        Raises:
            StorageError: another process wrote something else there meanwhile. The same bytes are no error.
        """
        ...

    def clean(self, prefix: str) -> list[str]:
        """Remove what killed writers of files that begin with `prefix` left behind; what it was."""
        ...

    def exists(self, path: str) -> bool:
        """Whether the file is there."""
        ...

    def size(self, path: str) -> int:
        """Bytes of the file."""
        ...

    def list(self, prefix: str = "") -> Iterator[str]:
        """Paths that begin with `prefix`, sorted; temporary files are left out."""
        ...

    def delete(self, path: str) -> None:
        """Remove the file; a missing one is no error."""
        ...

    def local_path(self, path: str) -> Path | None:
        """Where the file lies on this machine, for memory-mapping; None where it does not."""
        ...


def open_storage(url: str | Path) -> Storage:
    """The storage at a local folder or at ``s3://bucket/prefix``."""
    text = str(url)
    if text.startswith("s3://"):
        from shards.storage.s3 import S3Storage

        return S3Storage(text)
    if "://" in text:
        raise StorageError(f"{text}: only local folders and s3:// are known")
    return LocalStorage(text)
