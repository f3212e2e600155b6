"""Handing results of workers over: nothing changes, nothing is overwritten while it is in use, all slots come back."""

from __future__ import annotations

import os
import pickle
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from pipeline.data.handover import Handover, _free

pytestmark = pytest.mark.timeout(60)


@dataclass(frozen=True)
class Result:
    number: int
    wave: np.ndarray
    ids: torch.Tensor
    nested: tuple[dict[str, torch.Tensor], str]
    empty: np.ndarray


def load(i: int) -> Result:
    wave = np.arange(1000 + i, dtype=np.float32) * i
    nested = {"mask": torch.arange(i) % 2 == 0, "none": torch.zeros(i, 0, 2, dtype=torch.int64)}
    return Result(i, wave, torch.arange(i, 2 * i, dtype=torch.int32), (nested, str(i)), np.zeros((0, 2), np.int64))


def equal(a: Result, b: Result) -> bool:
    arrays = [np.array_equal(a.wave, b.wave), np.array_equal(a.empty, b.empty), a.empty.shape == b.empty.shape]
    tensors = [(a.ids, b.ids), *zip(a.nested[0].values(), b.nested[0].values(), strict=True)]
    same = [torch.equal(x, y) and x.dtype == y.dtype for x, y in tensors]
    return a.number == b.number and a.nested[1] == b.nested[1] and all(arrays) and all(same)


def through(handover: Handover, count: int, workers: int = 2) -> DataLoader[Result]:
    return DataLoader(handover, batch_size=None, sampler=range(count), num_workers=workers, collate_fn=lambda x: x)


@pytest.fixture
def opened(monkeypatch):
    """Slots that were read, in order."""
    slots, plain = [], Handover.open
    monkeypatch.setattr(Handover, "open", lambda self, slot, *a: slots.append(slot) or plain(self, slot, *a))
    return slots


@pytest.mark.parametrize("workers", [0, 1, 2])
def test_results_are_those_of_loading_them_here(opened, workers):
    handover = Handover(load, workers, 4, 1 << 16)
    found = [equal(result, load(i)) for i, result in enumerate(through(handover, 20, workers))]
    assert found == [True] * 20
    assert len(opened) == (20 if workers else 0)


def test_a_slot_is_not_written_while_an_array_of_it_is_in_use(opened):
    kept = list(through(Handover(load, 1, 3, 1 << 16), 20, 1))
    assert [equal(result, load(i)) for i, result in enumerate(kept)] == [True] * 20
    assert sorted(opened) == [0, 1, 2]  # the others came without one


def test_one_array_keeps_a_slot_and_the_last_one_gives_it_back():
    handover = Handover(load, 1, 4, 1 << 16)
    kept = [result.nested[0]["mask"] for result in through(handover, 3, 1)]
    assert handover._memory[:4] == b"\1\1\1\0"
    del kept[1]
    assert handover._memory[:4] == b"\1\0\1\0"
    kept.clear()
    assert handover._memory[:4] == bytes(4)


def test_what_is_in_use_outlives_the_handover():
    (kept,) = through(Handover(load, 1, 2, 1 << 16), 1, 1)
    assert equal(kept, load(0))


def test_a_result_larger_than_a_slot_goes_another_way(opened):
    found = list(through(Handover(lambda i: load(5000 * i), 1, 4, 1 << 14), 2, 1))
    assert [equal(result, load(5000 * i)) for i, result in enumerate(found)] == [True, True]
    assert opened == [0]


def test_a_copy_for_a_process_without_this_memory_works_without():
    handover = pickle.loads(pickle.dumps(Handover(load, 1, 4, 1 << 16)))
    assert equal(next(iter(through(handover, 1, 1))), load(0))


def test_a_process_forked_later_gives_nothing_back():
    memory = bytearray(b"\1")
    _free(memory, 0, os.getpid() + 1)
    assert memory == b"\1"
    _free(memory, 0, os.getpid())
    assert memory == b"\0"
