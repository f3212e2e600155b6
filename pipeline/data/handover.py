"""Results of loader processes in shared memory that is used again and again.

A DataLoader passes each tensor as a file descriptor over a connection of its own, and arrays through a pipe, which
copies them several times. Here a worker writes the arrays of a result into a free slot of its memory, one after
another, and sends the rest of the result with their lengths. The receiver's arrays are views of the slot; with the last
of them it is free again. A result that finds no free slot or is larger than one goes the DataLoader's way.
"""

from __future__ import annotations

import contextlib
import itertools
import logging
import mmap
import os
import pickle
import weakref
from collections.abc import Callable
from io import BytesIO
from typing import Any

import numpy as np
import torch
from torch.utils.data import get_worker_info

_ALIGNED = 64  # bytes: a cache line, and more than any type of a tensor needs
_numbers = itertools.count()
_known: weakref.WeakValueDictionary[int, Handover] = weakref.WeakValueDictionary()  # of this process
logger = logging.getLogger(__name__)


class Handover:
    """A map-style dataset whose results come through shared memory when a worker of a DataLoader loads them.

    Slots are shared with forked workers; with workers started in another way, results go the DataLoader's way.
    """

    def __init__(self, load: Callable[[Any], Any], workers: int, slots: int, slot_bytes: int) -> None:
        """Reserve the memory; it takes room only when it is written.

        Args:
            load: result for a sampler's item.
            slots: for each worker, at least as many as results of it are loaded and not dropped at a time.
        """
        self._load, self._slots = load, slots
        self._bytes = -(-slot_bytes // mmap.PAGESIZE) * mmap.PAGESIZE
        self._first = -(-workers * slots // mmap.PAGESIZE) * mmap.PAGESIZE  # before it a byte for each slot: 1 if used
        self._memory: mmap.mmap | None = None
        with contextlib.suppress(OSError):  # a system that promises no more memory than it has
            self._memory = mmap.mmap(-1, self._first + workers * slots * self._bytes)
        self._owner, self._number = os.getpid(), next(_numbers)
        _known[self._number] = self

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_memory": None}

    def __getitem__(self, item: Any) -> Any:
        result = self._load(item)
        worker = get_worker_info()
        return result if worker is None or self._memory is None else self._packed(result, worker.id)

    def _packed(self, result: Any, worker: int) -> Any:
        """The result with its arrays in a slot; the result itself without a free slot of its size."""
        assert self._memory is not None
        slot = self._memory.find(b"\0", worker * self._slots, (worker + 1) * self._slots)
        if slot < 0:
            return result
        buffers: list[pickle.PickleBuffer] = []
        file = BytesIO()
        _Pickler(file, protocol=5, buffer_callback=buffers.append).dump(result)
        views = [buffer.raw() for buffer in buffers]
        stops = list(itertools.accumulate(-(-view.nbytes // _ALIGNED) * _ALIGNED for view in views))
        if not stops or stops[-1] > self._bytes:
            return result
        place = self._first + slot * self._bytes
        spans = [(begin, view.nbytes) for begin, view in zip([0, *stops], views, strict=False)]
        for (begin, length), view in zip(spans, views, strict=True):
            self._memory[place + begin : place + begin + length] = view
        self._memory[slot] = 1
        return _Packed(self._number, slot, file.getbuffer().tobytes(), spans)

    def open(self, slot: int, rest: bytes, spans: list[tuple[int, int]]) -> Any:
        """The result whose arrays a worker has written into a slot."""
        assert self._memory is not None
        used = np.frombuffer(self._memory, np.uint8, self._bytes, self._first + slot * self._bytes)
        weakref.finalize(used, _free, self._memory, slot, self._owner).atexit = False
        whole = used.data
        return pickle.loads(rest, buffers=[whole[begin : begin + length] for begin, length in spans])


def _free(memory: mmap.mmap, slot: int, owner: int) -> None:
    """Let the worker write into a slot again: no array of the process that reads it is left."""
    if os.getpid() == owner:  # a process forked since then has arrays of its own
        memory[slot] = 0


class _Packed:
    """A result on its way: unpickling it gives the result itself."""

    def __init__(self, *how: Any) -> None:
        self._how = how

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return _open, self._how


def _open(number: int, slot: int, rest: bytes, spans: list[tuple[int, int]]) -> Any:
    return _known[number].open(slot, rest, spans)


class _Pickler(pickle.Pickler):
    """Pickles tensors as arrays: torch's own pickles have no buffers apart."""

    def reducer_override(self, obj: Any) -> Any:
        return (torch.from_numpy, (obj.numpy(),)) if type(obj) is torch.Tensor else NotImplemented
