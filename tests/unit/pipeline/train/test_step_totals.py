"""Totals of a step over ranks, and the value that makes every rank skip an update."""

from __future__ import annotations

import math
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from pipeline.ranks.launch import Ranks
from pipeline.train.loss_table import nan_unless_finite
from pipeline.train.step_totals import OwnNumbers, step_totals, sums_and_values

WORLD = 3


def on_all_ranks(monkeypatch: pytest.MonkeyPatch, work: Callable[[Ranks], Any]) -> list[Any]:
    """Results of ``work`` on each rank: once to collect what ranks add, once with the sums."""
    added: list[torch.Tensor] = []
    ranks = [Ranks(r, WORLD, r, torch.device("cpu")) for r in range(WORLD)]
    monkeypatch.setattr(torch.distributed, "all_reduce", lambda t, group=None: added.append(t.clone()))
    for rank in ranks:
        work(rank)
    monkeypatch.setattr(torch.distributed, "all_reduce", lambda t, group=None: t.copy_(torch.stack(added).sum(0)))
    return [work(rank) for rank in ranks]


def test_sums_are_added_and_own_values_come_from_their_rank(monkeypatch: pytest.MonkeyPatch) -> None:
    found = on_all_ranks(monkeypatch, lambda r: sums_and_values(r, [1.0, r.rank], [10.0 + r.rank, -r.rank], None))
    assert found == [([3.0, 3.0], [[10.0, 11.0, 12.0], [0.0, -1.0, -2.0]])] * WORLD


def test_totals_are_sums_and_maxima_over_ranks(monkeypatch: pytest.MonkeyPatch) -> None:
    def work(ranks: Ranks) -> Any:
        r = ranks.rank
        batches = [SimpleNamespace(num_positions=10 * (r + 1), audio_seconds=0.5)] * 2
        meter = SimpleNamespace(step=lambda batches: (100.0, 200.0 + r))
        own = OwnNumbers(stop=r == 1, failed_save=False, waited=0.1 * r, own_seconds=2.0 - r)
        return step_totals(ranks, None, [r, 2.0], batches, meter, own)  # type: ignore[arg-type]

    monkeypatch.setattr("pipeline.train.step_totals.peak_bytes", lambda reserved: 3 * 2**30)
    for totals in on_all_ranks(monkeypatch, work):
        assert totals.targets == (3.0, 6.0)
        assert (totals.positions, totals.audio_seconds) == (120.0, 3.0)
        assert (totals.model_flops, totals.hardware_flops) == (300.0, 603.0)
        assert (totals.stops, totals.failed_saves) == (1.0, 0.0)
        assert (totals.waited, totals.peak_gib) == (0.2, 3.0)
        assert totals.own_seconds == (2.0, 1.0, 0.0)


def test_a_loss_stays_as_it_is_while_all_losses_are_finite() -> None:
    losses = torch.tensor([1e300, 3.7, -2.0], dtype=torch.float64)
    for dtype in (torch.float32, torch.bfloat16):
        loss = torch.tensor(0.1, dtype=dtype)
        assert torch.equal(nan_unless_finite(loss, losses), loss)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_loss_and_its_gradient_are_nan_if_a_loss_of_any_rank_is_not_finite(bad: float) -> None:
    weight = torch.tensor(2.0, requires_grad=True)
    loss = nan_unless_finite(weight * 3, torch.tensor([1.0, bad], dtype=torch.float64))
    loss.backward()
    assert torch.isnan(loss)
    assert weight.grad is not None
    assert torch.isnan(weight.grad)
