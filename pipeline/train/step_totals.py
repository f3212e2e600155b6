"""Totals of a global step over all ranks, before its first backward pass: one all-reduce on the hosts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from pipeline.flops import Meter
from pipeline.ranks.collectives import all_reduce_sum
from pipeline.ranks.launch import Ranks
from pipeline.ranks.memory import peak_bytes


@dataclass(frozen=True, slots=True)
class StepTotals:
    """Sums over all ranks, if a field's comment does not say otherwise."""

    targets: tuple[float, ...]  # target tokens by cell of the loss table
    positions: float  # LLM positions
    audio_seconds: float
    model_flops: float
    hardware_flops: float
    stops: float  # ranks that were asked to stop
    failed_saves: float  # ranks whose save in the background failed
    waited: float  # seconds, of the rank that waited longest for data
    peak_gib: float  # of the rank with the largest memory so far
    own_seconds: tuple[float, ...]  # by rank: work since the last step, without waiting for others


@dataclass(frozen=True, slots=True)
class OwnNumbers:
    """Numbers of a rank that are not derived from its micro-batches."""

    stop: bool
    failed_save: bool
    waited: float
    own_seconds: float


def step_totals(
    ranks: Ranks, hosts: Any, targets: Sequence[float], batches: Sequence[Any], meter: Meter | None, own: OwnNumbers
) -> StepTotals:
    """Compute the totals of a global step. Collective.

    Args:
        hosts: gloo process group, whose messages wait for no GPU.
        targets: target tokens of this rank's micro-batches by cell of the loss table.
    """
    flops = meter.step(batches) if meter else (0.0, 0.0)
    added = [sum(b.num_positions for b in batches), sum(b.audio_seconds for b in batches), *flops]
    added += [float(own.stop), float(own.failed_save)]
    peak = peak_bytes(reserved=True) / 2**30
    totals, (waits, peaks, laps) = sums_and_values(
        ranks, [*targets, *added], [own.waited, peak, own.own_seconds], hosts
    )
    n = len(targets)
    positions, audio_seconds, model_flops, hardware_flops, stops, failed_saves = totals[n:]
    return StepTotals(
        targets=tuple(totals[:n]),
        positions=positions,
        audio_seconds=audio_seconds,
        model_flops=model_flops,
        hardware_flops=hardware_flops,
        stops=stops,
        failed_saves=failed_saves,
        waited=max(waits),
        peak_gib=max(peaks),
        own_seconds=tuple(laps),
    )


def sums_and_values(
    ranks: Ranks, added: Sequence[float], own: Sequence[float], group: Any
) -> tuple[list[float], list[list[float]]]:
    """Sum some numbers over ranks and gather others, in a single all-reduce. Collective.

    The same sum gathers values: each rank writes its own into a vector that is zero elsewhere. So maxima need no second
    reduction.

    Returns:
        The sums of ``added``, and for each number of ``own`` its value on every rank.
    """
    world = ranks.world_size
    places = [0.0] * (len(own) * world)
    places[ranks.rank :: world] = own
    everyone = all_reduce_sum(ranks, [*added, *places], group)
    values = everyone[len(added) :]
    return everyone[: len(added)], [values[i * world : (i + 1) * world] for i in range(len(own))]
