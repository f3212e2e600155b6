"""Collectives of one rank; tests/distributed runs them on several."""

from __future__ import annotations

import pytest
import torch

from pipeline.ranks.collectives import all_gather_or_raise, broadcast_or_raise, gather_unique
from pipeline.ranks.launch import Ranks
from shards.errors import CheckpointError, DataError, SpeakerLMError, StorageError

ALONE = Ranks(0, 1, 0, torch.device("cpu"))


def test_results_of_all_ranks_and_of_the_first() -> None:
    assert all_gather_or_raise(ALONE, lambda: 7) == [7]
    assert broadcast_or_raise(ALONE, lambda: 7) == 7


@pytest.mark.parametrize("failure", [StorageError, CheckpointError])
def test_caller_names_the_class_of_an_operating_system_error(failure: type[SpeakerLMError]) -> None:
    def full_disk() -> None:
        raise OSError(28, "No space left on device", "out/a")

    with pytest.raises(failure, match=r"rank 0: .*No space left on device: 'out/a'") as e:
        all_gather_or_raise(ALONE, full_disk, failure=failure)
    assert type(e.value) is failure
    with pytest.raises(failure, match="rank 0: "):
        broadcast_or_raise(ALONE, full_disk, failure=failure)


def test_operating_system_error_is_a_storage_error_by_default() -> None:
    def unreadable() -> None:
        raise OSError(5, "Input/output error")

    with pytest.raises(StorageError, match=r"rank 0: .*Input/output error"):
        all_gather_or_raise(ALONE, unreadable)


def test_error_of_the_project_keeps_its_class() -> None:
    def bad() -> None:
        raise DataError("shard 7 is bad")

    with pytest.raises(DataError, match="rank 0: shard 7 is bad"):
        all_gather_or_raise(ALONE, bad, failure=CheckpointError)


def test_equal_items_are_gathered_once_in_one_order() -> None:
    items = [{"step": 2, "key": "b"}, {"key": "a", "step": 1}, {"key": "b", "step": 2}]
    assert gather_unique(ALONE, items) == [{"key": "a", "step": 1}, {"key": "b", "step": 2}]
