"""Hashes of a speaker bank: its table names the hash of the vectors and that of its own rows.

Without them an exchange of two rows, or a flipped bit, would stay unseen, and the speaker of a clip could be registered
as one who is absent from it. :func:`find_fault` compares a whole bank, for ``verify`` and for a rerun of ``pack``. A
bank that is opened is compared by the first process of a node; the others see its mark, which holds for the same table
and the same file (inode, size, times of change).
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import pyarrow as pa

from shards.errors import SpeakerError
from shards.storage.interface import Storage
from shards.storage.local import LocalStorage

VECTORS_SHA256, ROWS_SHA256 = b"vectors_sha256", b"rows_sha256"  # in the table's metadata


def rows_sha256(table: pa.Table) -> str:
    """Return the hash of a table's rows and metadata, without that of the hash itself."""
    metadata = {k.decode(): v.decode() for k, v in (table.schema.metadata or {}).items() if k != ROWS_SHA256}
    content = json.dumps([table.to_pydict(), metadata], sort_keys=True)
    return hashlib.sha256(content.encode()).hexdigest()


def find_fault(table: pa.Table, vectors: BinaryIO) -> str | None:
    """Compare a bank with its hashes; None if they agree, or if the table of an earlier version has none."""
    metadata = table.schema.metadata or {}
    wanted = metadata.get(ROWS_SHA256)
    if wanted is not None and rows_sha256(table).encode() != wanted:
        return "has other rows than were written"
    wanted = metadata.get(VECTORS_SHA256)
    if wanted is not None and _sha256(vectors).encode() != wanted:
        return "was not written for these vectors"
    return None


def _sha256(file: BinaryIO) -> str:
    digest = hashlib.sha256()
    while block := file.read(1 << 20):
        digest.update(block)
    return digest.hexdigest()


def node_cache_folder() -> Path:
    """Return the folder where this user's processes on this machine share downloaded banks, and marks of compared ones.

    It is on the node's own disk: ``~`` may be on a network filesystem.
    """
    return Path(tempfile.gettempdir()) / f"speakerlm-{os.getuid()}" / "banks"


def vectors_on_node(storage: Storage, vector_file: str, table: pa.Table, data: bytes) -> Path:
    """Return the vectors as a file on this machine, compared with the table's hashes.

    The first process of the node compares them, and downloads remote ones; others wait for it.

    Args:
        data: of the table.

    Raises:
        SpeakerError: not the rows or vectors that were written.
    """
    local = storage.local_path(vector_file)
    name = (table.schema.metadata or {}).get(VECTORS_SHA256, b"").decode()
    if local is None and not name:
        raise SpeakerError("its table has no hash of the vectors; write the bank again with this version")
    with _locked(name or "old") as folder:
        path = local or folder / f"{name}.npy"
        for last in (False, True):
            if local is None and not path.is_file():
                LocalStorage(folder).write_atomic(path.name, storage.read(vector_file))
            mark = folder / _mark(path, data)
            if mark.exists():
                return path
            with path.open("rb") as vectors:
                fault = find_fault(table, vectors)
            if fault is None:
                with contextlib.suppress(OSError):  # then every process compares
                    mark.touch()
                return path
            if local is None:
                path.unlink()  # the copy may be what is damaged: downloaded once more
            if local is not None or last:
                raise SpeakerError(fault)
    raise AssertionError("the second attempt returns or raises")


def _mark(path: Path, table: bytes) -> str:
    """Return a name that changes when the table or the vectors' file does."""
    stat = path.stat()
    seen = (str(path.absolute()), stat.st_dev, stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns)
    return f"{hashlib.sha256(repr(seen).encode() + table).hexdigest()[:32]}.compared"


@contextmanager
def _locked(name: str) -> Iterator[Path]:
    """Hold a lock of this node; yield the folder. A folder that cannot be written gives no lock."""
    folder = node_cache_folder()
    with contextlib.ExitStack() as stack:
        with contextlib.suppress(OSError):
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            lock = stack.enter_context((folder / f".{name}.lock").open("w"))
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield folder
