"""Read samples ahead, many at a time: an object store has high latency and allows high concurrency.

Of local files the system reads ahead; it is only given the ranges.
"""

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
        # by dataset id, shard, row; no future: the system reads
        self._begun: dict[tuple[int, int, int], tuple[SampleLocation, Future[bytes] | None]] = {}

    def __getstate__(self) -> dict[str, Any]:
        return {"_pool": None, "_begun": {}}

    def announce(self, dataset: Dataset, rows: Iterable[tuple[int, int]]) -> None:
        """Begin to read samples, given as (shard, row). An error of locating one is raised by :meth:`take`."""
        storage = dataset.storage
        remote = storage.local_path("") is None
        for shard, row in rows:
            if (id(dataset), shard, row) in self._begun:
                continue
            with contextlib.suppress(DataError, StorageError):
                place = locate(dataset, shard, row)
                if not remote:
                    storage.will_read(place.tar, place.offset, place.length)
                reading = self._threads.submit(place.read, storage) if remote else None
                self._begun[id(dataset), shard, row] = place, reading

    def take(self, dataset: Dataset, shard: int, row: int) -> tuple[SampleLocation, bytes]:
        """The place of a sample and its bytes.

        Raises:
            ShardError, StorageError: as :func:`locate` and the storage.
        """
        begun = self._begun.pop((id(dataset), shard, row), None)
        place, reading = begun if begun is not None else (locate(dataset, shard, row), None)
        return place, place.read(dataset.storage) if reading is None else reading.result()

    @property
    def _threads(self) -> ThreadPoolExecutor:
        """Threads of this process: a forked process does not have its parent's."""
        if self._pool is None or self._pool[0] != os.getpid():
            self._pool = os.getpid(), ThreadPoolExecutor(READS, "read-ahead")
        return self._pool[1]
