from __future__ import annotations

import torch

from pipeline.preflight.live_memory import LiveBytes


def test_what_is_made_and_dropped() -> None:
    outside = torch.zeros(1000)
    with LiveBytes() as live:
        a = torch.zeros(250)
        assert (live.now, live.peak) == (1000, 1000)
        b = a + 1
        view = b.view(10, 25)[2]
        del a, b
        assert live.now == 1000  # the view holds all of it
        del view
        assert (live.now, live.peak) == (0, 2000)
        same = outside.view(10, 100)
        same += 1
        assert live.now == 0  # made before


def test_a_backward_pass_is_seen() -> None:
    x = torch.zeros(100, requires_grad=True)
    with LiveBytes() as live:
        loss = (x.exp() * 2).sum()
        held = live.now
        loss.backward()
    assert held >= 400
    assert live.peak >= held + 400
    assert x.grad is not None


def test_tensors_without_content_count_too() -> None:
    with LiveBytes() as live:
        big = torch.empty(10**6, 10**6, device="meta", dtype=torch.bfloat16)
        assert live.now == 2 * 10**12
        del big
        assert live.now == 0
