"""Collective operations of Python objects and numbers; an error on one rank is raised on all.

Every rank must call each of these functions; otherwise the others wait for it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import Any

from pipeline.ranks.launch import Ranks
from shards.errors import SpeakerLMError, StorageError


def all_gather_or_raise(
    ranks: Ranks, work: Callable[[], Any], group: Any = None, failure: type[SpeakerLMError] = StorageError
) -> list[Any]:
    """Call ``work`` on each rank; return the results of all ranks on every rank, or raise on all if one failed.

    Args:
        group: process group of a thread, apart from the main thread's messages.
        failure: raised where the operating system failed.

    Raises:
        SpeakerLMError: of the class of the first failed rank's error, or ``failure``; the message names the ranks.
    """
    import torch
    from safetensors import SafetensorError

    mine: tuple[Any, type[SpeakerLMError] | None, str]
    try:
        mine = (work(), None, "")
    except SpeakerLMError as e:
        mine = (None, type(e), f"rank {ranks.rank}: {e}")
    except (OSError, SafetensorError) as e:
        mine = (None, failure, f"rank {ranks.rank}: {e}")
    gathered: list[Any] = [mine] * ranks.world_size
    if ranks.world_size > 1:
        torch.distributed.all_gather_object(gathered, mine, group=group)
    failures = [(error, text) for _, error, text in gathered if error]
    if failures:
        raise failures[0][0]("; ".join(text for _, text in failures))
    return [result for result, *_ in gathered]


def broadcast_or_raise(
    ranks: Ranks, work: Callable[[], Any], group: Any = None, failure: type[SpeakerLMError] = StorageError
) -> Any:
    """Call ``work`` on the first rank; return its result on every rank, or raise its error on all."""
    return all_gather_or_raise(ranks, lambda: work() if ranks.is_first else None, group, failure)[0]


def barrier(ranks: Ranks) -> None:
    """Wait until all ranks have called this."""
    all_gather_or_raise(ranks, lambda: None)


def gather_unique(ranks: Ranks, items: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the items of all ranks, equal ones once, in the same order on every rank."""
    lists = all_gather_or_raise(ranks, lambda: items)
    return [json.loads(text) for text in sorted({json.dumps(item, sort_keys=True) for each in lists for item in each})]


def host_group(limit: float) -> Any:
    """Create a gloo process group of all ranks, whose messages wait for no GPU. Collective.

    Args:
        limit: timeout of its operations, in seconds.
    """
    import torch

    return torch.distributed.new_group(backend="gloo", timeout=timedelta(seconds=limit))


def all_reduce_sum(ranks: Ranks, values: Sequence[float], hosts: Any = None) -> list[float]:
    """Return each value's sum over all ranks; computed on the device, or on the host through a :func:`host_group`."""
    import torch

    tensor = torch.tensor(values, dtype=torch.float64, device="cpu" if hosts else ranks.device)
    torch.distributed.all_reduce(tensor, group=hosts)
    return [float(v) for v in tensor.tolist()]


def any_rank(ranks: Ranks, flag: bool) -> bool:
    """Return whether ``flag`` holds on any rank."""
    return all_reduce_sum(ranks, [float(flag)])[0] > 0
