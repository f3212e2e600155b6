"""Read samples ahead, many at a time: an object store has high latency and allows high concurrency."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from shards.dataset.dataset import Dataset
from shards.dataset.reader import SampleLocation, locate
from shards.errors import DataError, StorageError

READS = 16  # in flight in a process


class ReadAhead:
    """Reads on threads. A sample that was not announced is read by :meth:`take`. Safe to hand to another process."""

    def __init__(self) -> None:
        self._pool: tuple[int, ThreadPoolExecutor] | None = None
        self._begun: dict[tuple[int, int, int], tuple[SampleLocation, Future[bytes]]] = {}  # by dataset id, shard, row

    def __getstate__(self) -> dict[str, Any]:
        return {"_pool": None, "_begun": {}}

    def announce(self, dataset: Dataset, rows: Iterable[tuple[int, int]]) -> None:
        """Begin to read samples, given as (shard, row). An error of locating one is raised by :meth:`take`."""
        for shard, row in rows:
            if (id(dataset), shard, row) in self._begun:
                continue
            with contextlib.suppress(DataError, StorageError):
                place = locate(dataset, shard, row)
                self._begun[id(dataset), shard, row] = place, self._threads.submit(place.read, dataset.storage)

    def take(self, dataset: Dataset, shard: int, row: int) -> tuple[SampleLocation, bytes]:
        """The place of a sample and its bytes.

        Raises:
            ShardError, StorageError: as :func:`locate` and the storage.
        """
        begun = self._begun.pop((id(dataset), shard, row), None)
        if begun is not None:
            return begun[0], begun[1].result()
        place = locate(dataset, shard, row)
        return place, place.read(dataset.storage)

    @property
    def _threads(self) -> ThreadPoolExecutor:
        """Threads of this process: a forked process does not have its parent's."""
        if self._pool is None or self._pool[0] != os.getpid():
            self._pool = os.getpid(), ThreadPoolExecutor(READS, "read-ahead")
        return self._pool[1]
