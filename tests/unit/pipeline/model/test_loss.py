"""The chunked loss against the whole computation."""

from __future__ import annotations

import pytest
import torch
from torch.nn.functional import cross_entropy

from pipeline.model.loss import token_losses_sum
from pipeline.preflight.live_memory import LiveBytes
from shards.errors import ModelError


@pytest.fixture
def head() -> torch.nn.Linear:
    torch.manual_seed(0)
    return torch.nn.Linear(32, 500, bias=False).requires_grad_(False)


@pytest.mark.parametrize("chunk", [1, 7, 64, 1000])
def test_equal_to_the_whole_computation(head: torch.nn.Linear, chunk: int) -> None:
    targets = torch.randint(0, 500, (100,))
    hidden = torch.randn(100, 32, requires_grad=True)
    reference = hidden.detach().clone().requires_grad_()
    expected = cross_entropy(head(reference), targets, reduction="sum")
    (expected * 0.3).backward()
    loss = token_losses_sum(head, hidden, targets, chunk=chunk)
    (loss * 0.3).backward()
    assert abs(loss.item() / expected.item() - 1) < 1e-6
    assert (hidden.grad - reference.grad).abs().max() < 1e-6


def test_a_bias_counts(head: torch.nn.Linear) -> None:
    biased = torch.nn.Linear(32, 500).requires_grad_(False)
    hidden, targets = torch.randn(9, 32), torch.randint(0, 500, (9,))
    expected = cross_entropy(biased(hidden), targets, reduction="sum")
    assert abs(token_losses_sum(biased, hidden, targets, chunk=4).item() / expected.item() - 1) < 1e-6


def test_no_target_is_a_loss_of_zero_with_a_graph(head: torch.nn.Linear) -> None:
    source = torch.randn(5, 32, requires_grad=True)
    loss = token_losses_sum(head, source[:0], torch.zeros(0, dtype=torch.long))
    loss.backward()
    assert loss.item() == 0
    assert torch.equal(source.grad, torch.zeros(5, 32))


def test_no_chunk_of_logits_outlives_the_forward_pass(head: torch.nn.Linear) -> None:
    hidden = torch.randn(10, 32, requires_grad=True)
    loss = token_losses_sum(head, hidden, torch.randint(0, 500, (10,)), chunk=4)
    assert sum(t.numel() for t in loss.grad_fn.saved_tensors) == hidden.numel()


def test_bf16_is_close(head: torch.nn.Linear) -> None:
    hidden, targets = torch.randn(50, 32), torch.randint(0, 500, (50,))
    expected = token_losses_sum(head, hidden, targets)
    out = token_losses_sum(head.bfloat16(), hidden.bfloat16(), targets)
    assert out.dtype == torch.float32
    assert abs(out.item() / expected.item() - 1) < 0.01


def test_a_factor_of_the_loss_is_not_rounded_to_bf16(head: torch.nn.Linear) -> None:
    """1001 is 1000 in bf16."""
    targets, gradients = torch.randint(0, 500, (50,)), {}
    hidden = torch.randn(50, 32).bfloat16()
    for factor in (1.0, 1001.0):
        leaf = hidden.clone().requires_grad_()
        (token_losses_sum(head.bfloat16(), leaf, targets) * factor).backward()
        gradients[factor] = leaf.grad
    assert gradients[1001.0].dtype == torch.bfloat16
    assert torch.equal(gradients[1001.0], (gradients[1.0].float() * 1001).bfloat16())


def test_a_trained_head_is_refused(head: torch.nn.Linear) -> None:
    head.requires_grad_(True)
    with pytest.raises(ModelError, match="output layer"):
        token_losses_sum(head, torch.randn(1, 32), torch.tensor([1]))


def peak_bytes(positions: int, targets: int, vocabulary: int = 4000, width: int = 16, whole: bool = False) -> int:
    """Largest memory of tensors during loss and backward pass, less the hidden states of all positions and their
    gradient, which the LLM's last layer holds in any case."""
    head = torch.nn.Linear(width, vocabulary, bias=False).requires_grad_(False)
    hidden = torch.randn(positions, width, requires_grad=True)
    index = torch.arange(positions - targets, positions)
    labels = torch.randint(0, vocabulary, (targets,))
    with LiveBytes() as live:
        if whole:
            loss = cross_entropy(head(hidden)[index], labels, reduction="sum")
        else:
            loss = token_losses_sum(head, hidden.index_select(0, index), labels, chunk=32)
        loss.backward()
    return live.peak - positions * width * 4


def test_peak_memory_does_not_grow_with_prompts_and_audio() -> None:
    short, long = peak_bytes(300, targets=200), peak_bytes(6000, targets=200)
    assert long <= 1.02 * short
    assert peak_bytes(6000, targets=200, whole=True) > 20 * long


def test_peak_memory_is_that_of_two_chunks_of_logits() -> None:
    one_chunk = 32 * 4000 * 4
    for targets in (64, 200, 2000):
        of_targets = 4 * targets * 16 * 4  # hidden states at targets, their gradient, and as much in passing
        assert one_chunk < peak_bytes(3000, targets) < 3.1 * one_chunk + of_targets


def test_the_layers_hooks_run_once_around_loss_and_gradient(head: torch.nn.Linear) -> None:
    """ZeRO-3 fetches the weight by them; a graph behind them would make it fetch the weight again in backward."""
    calls = []
    head.register_forward_pre_hook(lambda *_: calls.append("before"))
    head.register_forward_hook(lambda *a: calls.append(("after", any(t.requires_grad for t in a[2]))))
    hidden, targets = torch.randn(50, 32, requires_grad=True), torch.randint(0, 500, (50,))
    token_losses_sum(head, hidden, targets, chunk=7).backward()
    assert calls == ["before", ("after", False)]
    assert "forward" not in vars(head)
    assert head(hidden).shape == (50, 500)


def test_a_forward_that_a_library_put_there_stays(head: torch.nn.Linear) -> None:
    own = vars(head)["forward"] = head.forward
    with pytest.raises(IndexError):
        token_losses_sum(head, torch.randn(1, 32), torch.tensor([999]))
    assert vars(head)["forward"] is own


def test_each_token_has_its_loss_without_its_weight(head: torch.nn.Linear) -> None:
    hidden, targets = torch.randn(10, 32), torch.randint(0, 500, (10,))
    weights, each = torch.rand(10), torch.full((10,), -1.0)
    total = token_losses_sum(head, hidden, targets, weights, chunk=4, each=each)
    expected = torch.nn.functional.cross_entropy(head(hidden), targets, reduction="none")
    assert torch.allclose(each, expected, atol=1e-5)
    assert torch.allclose(total, (expected * weights).sum(), atol=1e-4)
