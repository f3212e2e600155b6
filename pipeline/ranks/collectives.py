"""What ranks decide together: one that fails makes all fail, with its own words.

Each function is collective: every rank calls it, or all wait for the one that does not.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import Any

from pipeline.ranks.launch import Ranks
from shards.errors import CheckpointError, SpeakerLMError


def agree(ranks: Ranks, work: Callable[[], Any], group: Any = None) -> list[Any]:
    """Do ``work`` on each rank; all ranks get all results, or all raise if one failed.

    Args:
        group: process group of a thread that must not meet the main thread's messages.

    Raises:
        The class of the first rank's error, or a CheckpointError where the operating system failed; names the ranks.
    """
    import torch
    from safetensors import SafetensorError

    mine: tuple[Any, type[SpeakerLMError] | None, str]
    try:
        mine = (work(), None, "")
    except SpeakerLMError as e:
        mine = (None, type(e), f"rank {ranks.rank}: {e}")
    except (OSError, SafetensorError) as e:
        mine = (None, CheckpointError, f"rank {ranks.rank}: {e}")
    everyone: list[Any] = [mine] * ranks.world_size
    if ranks.world_size > 1:
        torch.distributed.all_gather_object(everyone, mine, group=group)
    failures = [(error, text) for _, error, text in everyone if error]
    if failures:
        raise failures[0][0]("; ".join(text for _, text in failures))
    return [result for result, *_ in everyone]


def meet(ranks: Ranks) -> None:
    """No rank goes on before all have come here."""
    agree(ranks, lambda: None)


def merged(ranks: Ranks, items: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """What all ranks list, each item once, in one order."""
    lists = agree(ranks, lambda: items)
    return [json.loads(text) for text in sorted({json.dumps(item, sort_keys=True) for each in lists for item in each})]


def host_group(limit: float) -> Any:
    """All ranks over gloo: what goes through it waits for no GPU. Collective.

    Args:
        limit: seconds that a rank may be waited for.
    """
    import torch

    return torch.distributed.new_group(backend="gloo", timeout=timedelta(seconds=limit))


def sums(ranks: Ranks, values: Sequence[float], hosts: Any = None) -> list[float]:
    """Each value's sum over all ranks; on the device, or on the host through a :func:`host_group`."""
    import torch

    tensor = torch.tensor(values, dtype=torch.float64, device="cpu" if hosts else ranks.device)
    torch.distributed.all_reduce(tensor, group=hosts)
    return [float(v) for v in tensor.tolist()]


def anyone(ranks: Ranks, flag: bool) -> bool:
    """Whether it holds on any rank."""
    return sums(ranks, [float(flag)])[0] > 0
