"""One task of an array scans the manifest; the others read its table of lines from the output.

Scanning 300 million lines takes minutes. The table is one file, ``plan/NAME.lines``: 4 KiB with a JSON object, then the
offset of each record (little-endian int64). It is written atomically, used as long as the manifest is unchanged (size
and modification time), and removed when the dataset is merged. ``plan/NAME.claim`` exists while a task is scanning: its
content changes every few seconds, a heartbeat that needs no synchronised clocks.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from shards.errors import StorageError
from shards.packing.partition import LineTable
from shards.spool import Spool
from shards.storage.interface import Storage

VERSION = 1
HEADER = 4096  # bytes
_READ = 8 << 20

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class ClaimTimes:
    """Seconds of the claim's protocol."""

    heartbeat: float = 20.0  # between two writes of the claim
    dead: float = 120.0  # without a heartbeat: another task takes over
    poll: float = 5.0


def shared_table(
    folder: Path,
    storage: Storage,
    name: str,
    *,
    scan: Callable[[Path], LineTable] = LineTable,
    times: ClaimTimes = ClaimTimes(),
) -> LineTable:
    """Return a manifest's lines: from the stored table, after a wait for another task's scan, or by scanning."""
    claim = _Claim(storage, f"plan/{name}.claim", times)
    while True:
        table = stored_table(folder, storage, name)
        if table is not None:
            return table
        if claim.take():
            with claim.held():
                before = _identity(folder)
                table = scan(folder)
                with contextlib.suppress(StorageError):  # then the other tasks scan too
                    _write(table, storage, name, before)
            return table
        if claim.wait() and stored_table(folder, storage, name) is None:
            return scan(folder)  # the other task scanned another version of the manifest


def stored_table(folder: Path, storage: Storage, name: str) -> LineTable | None:
    """Return the stored table; None if it is missing, or the manifest has changed since."""
    path = _path(name)
    if not storage.exists(path):
        return None
    try:
        header: dict[str, Any] = json.loads(storage.read_range(path, 0, HEADER))
        if header.pop("version") != VERSION or header["manifest"] != _identity(folder):
            return None
        local = storage.local_path(path)
        file = local.open("rb") if local else _download(storage, path)
        offsets = Spool.from_file(file, np.int64, HEADER, header["recordings"])
    except (StorageError, OSError, ValueError, KeyError, TypeError):
        return None  # removed meanwhile or damaged: the caller scans
    return LineTable(folder, (offsets, header["sha256"]))


def remove_table(storage: Storage, name: str) -> None:
    """Remove the stored table, once the dataset is merged."""
    storage.delete(_path(name))


def _path(name: str) -> str:
    return f"plan/{name}.lines"


def _identity(folder: Path) -> list[int]:
    """Return what changes when the manifest is written."""
    try:
        stat = LineTable.file(folder).stat()
    except OSError:
        return []  # the scan reports the error
    return [stat.st_size, stat.st_mtime_ns]


def _write(table: LineTable, storage: Storage, name: str, manifest: list[int]) -> None:
    about = {"version": VERSION, "manifest": manifest, "sha256": table.sha256, "recordings": len(table)}
    with storage.create(_path(name), wait=True) as file:
        file.write(json.dumps(about).encode().ljust(HEADER))
        for block in table.blocks():
            file.write(block.astype("<i8").tobytes())


def _download(storage: Storage, path: str) -> BinaryIO:
    file = tempfile.TemporaryFile()  # noqa: SIM115 (lives as long as the table)
    size = storage.size(path)
    for block in storage.read_ranges(path, [(first, _READ) for first in range(0, size, _READ)]):
        file.write(block)
    file.flush()
    return file


class _Claim:
    """A file that says which task scans the manifest."""

    def __init__(self, storage: Storage, path: str, times: ClaimTimes) -> None:
        self._storage, self._path, self._times = storage, path, times
        self._me = f"{os.uname().nodename} {os.getpid()} {time.time_ns()}"
        self._dead: str | None = None  # version of a claim that has not changed for long

    def take(self) -> bool:
        """Try to take the claim; succeeds if it is free or its holder is dead."""
        seen = self._storage.version(self._path)
        if seen is not None and seen != self._dead:
            return False
        with contextlib.suppress(StorageError):  # another task was faster
            self._storage.commit(self._path, self._content(0), seen)
            return True
        return False

    @contextmanager
    def held(self) -> Iterator[None]:
        """Write heartbeats until the end of the block, then release the claim."""
        ended = threading.Event()

        def beat() -> None:
            number = 0
            while not ended.wait(self._times.heartbeat):
                number += 1
                with contextlib.suppress(StorageError):
                    self._storage.write_atomic(self._path, self._content(number))

        thread = threading.Thread(target=beat, daemon=True)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()
            with contextlib.suppress(StorageError):
                self._storage.delete(self._path)

    def wait(self) -> bool:
        """Wait until its holder releases it (True) or has not written a heartbeat for long (False)."""
        seen, since = self._storage.version(self._path), time.monotonic()
        if seen:
            logger.info("%s: waiting for another task that scans the manifest", self._storage.url)
        while seen is not None:
            time.sleep(self._times.poll)
            now = self._storage.version(self._path)
            if now != seen:
                seen, since = now, time.monotonic()
            elif time.monotonic() - since > self._times.dead:
                self._dead = seen
                return False
        return True

    def _content(self, number: int) -> bytes:
        return f"{self._me} {number}\n".encode()
