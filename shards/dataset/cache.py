"""Cache of remote shards on a node's local disk, for datasets that fit there entirely.

The first process of a node that reads from a shard copies it in the background; until the copy is finished, or if it
fails, ranges are read from the remote storage. A copy is locked while it is written, checked against the shard's sha256
and renamed into place, so the ranks of a node share copies and a killed process leaves no partial one. Nothing is
evicted: a dataset that does not fit is not cached at all.
"""

from __future__ import annotations

import hashlib
import logging
import os
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from shards.dataset.dataset import Dataset
from shards.dataset.index import ShardInfo
from shards.errors import StorageError
from shards.storage.interface import Storage
from shards.storage.local import LocalStorage, atomic_file
from shards.storage.s3 import READ_BYTES

logger = logging.getLogger(__name__)


class CachedStorage:
    """A dataset's storage that reads ranges of its shards from local copies, and everything else from the remote."""

    def __init__(self, remote: Storage, folder: Path, shards: Sequence[ShardInfo]) -> None:
        self._remote, self.local = remote, LocalStorage(folder)
        self._shards = {s.tar: s for s in shards}
        self._busy: threading.Thread | None = None
        self._failed: str | None = None

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or "_remote" not in self.__dict__:
            raise AttributeError(name)
        return getattr(self._remote, name)

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_busy": None}

    @property
    def failure(self) -> str | None:
        """The error that stopped the copies of this process; None without one."""
        return self._failed

    def read_range(self, path: str, offset: int, length: int) -> bytes:
        """Read a range from the local copy, or the remote storage while there is no copy."""
        shard = self._shards.get(path)
        if shard is None:
            return self._remote.read_range(path, offset, length)
        if self.local.exists(path):
            return self.local.read_range(path, offset, length)
        self._begin(shard)
        return self._remote.read_range(path, offset, length)

    def read_ranges(self, path: str, ranges: Sequence[tuple[int, int]]) -> Iterator[bytes]:
        """Read ranges from the local copy or the remote storage."""
        return (self.local if self.local.exists(path) else self._remote).read_ranges(path, ranges)

    def wait(self) -> None:
        """Wait for the copy in progress."""
        if self._busy is not None:
            self._busy.join()

    def _begin(self, shard: ShardInfo) -> None:
        """Start to copy a shard in the background; one at a time."""
        if self._failed or (self._busy is not None and self._busy.is_alive()):
            return
        self._busy = threading.Thread(target=self._copy, args=(shard,), daemon=True, name="shard-cache")
        self._busy.start()

    def _copy(self, shard: ShardInfo) -> None:
        digest = hashlib.sha256()
        spans = [(i, min(READ_BYTES, shard.bytes - i)) for i in range(0, shard.bytes, READ_BYTES)]
        try:
            with atomic_file(self.local.root / shard.tar) as file:
                for data in self._remote.read_ranges(shard.tar, spans):
                    digest.update(data)
                    file.write(data)
                if digest.hexdigest() != shard.sha256:  # the reader reports which samples are bad
                    raise StorageError(f"{self._remote.url}/{shard.tar}: the copy has another sha256")
        except StorageError as error:
            if not isinstance(error.__cause__, BlockingIOError):  # another process is copying it
                self._failed = str(error)
                logger.warning("this process caches no more shards: %s", error)


def cache_shards(dataset: Dataset, folder: str | os.PathLike[str], limit: float) -> float:
    """Read a remote dataset through copies in ``folder``, if its shards fit into ``limit`` bytes.

    Returns:
        The bytes of the copies; 0 if the dataset is local or does not fit.
    """
    size = sum(s.bytes for s in dataset.shards)
    if dataset.storage.local_path("") is not None or size > limit:
        return 0
    place = Path(folder) / f"{dataset.name}-{dataset.fingerprint()[:12]}"
    dataset.storage = CachedStorage(dataset.storage, place, dataset.shards)
    return size
