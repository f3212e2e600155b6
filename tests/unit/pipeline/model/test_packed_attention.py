"""Every way to attend inside segments: which is taken where, and that all compute the same."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor

from pipeline.model import packed_attention as packing
from pipeline.model.packed_attention import KERNELS, Segments, attention, choose

BOUNDS = (0, 50, 51, 130, 200)
HEADS, GROUPS, DIM = 4, 2, 16


@pytest.fixture(autouse=True)
def _forget() -> Iterator[None]:
    """What is installed is looked up once; here it changes between tests."""
    found = (packing._flash_attn, packing._torch_varlen, packing._flex, packing._has_tensor_cores)
    for f in found:
        f.cache_clear()
    yield
    for f in found:
        f.cache_clear()


def tensors(dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    shapes = ((1, HEADS, BOUNDS[-1], DIM), (1, GROUPS, BOUNDS[-1], DIM), (1, GROUPS, BOUNDS[-1], DIM))
    q, k, v = (torch.randn(*s, generator=generator).to(dtype).requires_grad_() for s in shapes)
    return q, k, v


def segments() -> Segments:
    return Segments.of(torch.tensor(BOUNDS, dtype=torch.int32), torch.device("cpu"))


def by_hand(q: Tensor, k: Tensor, v: Tensor, scale: float) -> Tensor:
    """(L, heads, D) each → (L, heads, D): softmax over what precedes in the own segment, as written in a textbook."""
    k, v = (x.repeat_interleave(q.shape[1] // k.shape[1], 1) for x in (k, v))
    place = torch.arange(len(q))
    segment = torch.bucketize(place, torch.tensor(BOUNDS[1:]), right=True)
    hidden = (segment[:, None] != segment) | (place[:, None] < place)
    scores = torch.einsum("ihd,jhd->hij", q, k) * scale
    return torch.einsum("hij,jhd->ihd", scores.masked_fill(hidden, float("-inf")).softmax(-1), v)


def rows(x: Tensor) -> Tensor:
    return x[0].transpose(0, 1)


@pytest.mark.parametrize("scale", [None, 0.3])
def test_the_loop_is_the_textbooks_attention_with_its_gradients(scale: float | None) -> None:
    q, k, v = tensors()
    out = KERNELS["loop"](q, k, v, 0.0, scale, segments())[0]
    expected = by_hand(rows(q), rows(k), rows(v), scale or DIM**-0.5)
    assert (out - expected).abs().max() < 1e-5
    weight = torch.randn(out.shape, generator=torch.Generator().manual_seed(1))
    for a, b in zip(
        torch.autograd.grad((out * weight).sum(), (q, k, v)),
        torch.autograd.grad((expected * weight).sum(), (q, k, v)),
        strict=True,
    ):
        assert (a - b).abs().max() < 1e-4


def test_flex_attention_computes_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    """Forward only: on a CPU torch has no backward pass of it. Not compiled here."""
    from torch.nn.attention.flex_attention import flex_attention

    monkeypatch.setattr(packing, "_flex", lambda: flex_attention)
    q, k, v = (x.detach() for x in tensors())
    out = KERNELS["flex"](q, k, v, 0.0, 0.3, segments())
    assert (out - KERNELS["loop"](q, k, v, 0.0, 0.3, segments())).abs().max() < 1e-5
    mask = segments().block_mask
    assert mask.shape == (1, 1, BOUNDS[-1], BOUNDS[-1])


def fake_flash(calls: list[dict[str, Any]]) -> ModuleType:
    """flash-attn's function with its signature, computed by hand."""
    module = ModuleType("flash_attn")

    def flash_attn_varlen_func(
        q: Tensor, k: Tensor, v: Tensor, cu_seqlens_q: Tensor, cu_seqlens_k: Tensor, max_seqlen_q: int,
        max_seqlen_k: int, dropout_p: float = 0.0, softmax_scale: float | None = None, causal: bool = False,
        window_size: tuple[int, int] = (-1, -1), softcap: float = 0.0, alibi_slopes: Any = None,
        deterministic: bool = False,
    ) -> Tensor:  # fmt: skip
        calls.append({"bounds": cu_seqlens_q.tolist(), "longest": max_seqlen_k, "contiguous": q.is_contiguous()})
        calls[-1]["deterministic"] = deterministic
        assert causal
        assert not dropout_p
        assert torch.equal(cu_seqlens_q, cu_seqlens_k)
        assert cu_seqlens_q.dtype == torch.int32
        return by_hand(q, k, v, softmax_scale or q.shape[-1] ** -0.5)

    module.flash_attn_varlen_func = flash_attn_varlen_func  # type: ignore[attr-defined]
    return module


@pytest.mark.parametrize(("scale", "exact"), [(None, False), (0.3, True)])
def test_flash_attn_gets_what_it_wants(monkeypatch: pytest.MonkeyPatch, scale: float | None, exact: bool) -> None:
    calls: list[dict[str, Any]] = []
    monkeypatch.setitem(sys.modules, "flash_attn", fake_flash(calls))
    monkeypatch.setattr(torch, "are_deterministic_algorithms_enabled", lambda: exact)
    q, k, v = tensors()
    out = KERNELS["flash_attn"](q, k, v, 0.0, scale, segments())
    assert calls == [{"bounds": list(BOUNDS), "longest": 79, "contiguous": True, "deterministic": exact}]
    assert (out - KERNELS["loop"](q, k, v, 0.0, scale, segments())).abs().max() < 1e-5


def varlen_210(q: Tensor, k: Tensor, v: Tensor, cu_seq_q: Tensor, cu_seq_k: Tensor, max_q: int, max_k: int,
               is_causal: bool = False, return_aux: Any = None) -> Tensor:  # fmt: skip
    assert is_causal
    assert q.shape == k.shape  # no grouped heads
    return by_hand(q, k, v, q.shape[-1] ** -0.5)


def varlen_211(q: Tensor, k: Tensor, v: Tensor, cu_seq_q: Tensor, cu_seq_k: Tensor, max_q: int, max_k: int, *,
               return_aux: Any = None, scale: float | None = None,
               window_size: tuple[int, int] = (-1, -1)) -> Tensor:  # fmt: skip
    assert window_size == (-1, 0)
    assert q.shape == k.shape
    return by_hand(q, k, v, scale or q.shape[-1] ** -0.5)


def varlen_213(q: Tensor, k: Tensor, v: Tensor, cu_seq_q: Tensor, cu_seq_k: Tensor, max_q: int, max_k: int, *,
               return_aux: Any = None, scale: float | None = None, window_size: tuple[int, int] = (-1, -1),
               enable_gqa: bool = False, num_splits: int | None = None) -> Tensor:  # fmt: skip
    assert window_size == (-1, 0)
    assert enable_gqa
    return by_hand(q, k, v, scale or q.shape[-1] ** -0.5)


@pytest.mark.parametrize("version", [varlen_210, varlen_211, varlen_213])
@pytest.mark.parametrize("scale", [None, 0.3])
def test_torchs_kernel_is_called_as_each_release_wants(
    monkeypatch: pytest.MonkeyPatch, version: Any, scale: float | None
) -> None:
    monkeypatch.setattr("torch.nn.attention.varlen.varlen_attn", version)
    q, k, v = tensors()
    out = KERNELS["torch_varlen"](q, k, v, 0.0, scale, segments())
    assert (out - KERNELS["loop"](q, k, v, 0.0, scale, segments())).abs().max() < 1e-5


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_this_torchs_kernel_takes_our_arguments(dtype: torch.dtype) -> None:
    """On tensors without content: arguments and shapes are checked, forward and backward, nothing is computed."""
    q, k, v = (x.detach().to("meta", dtype).requires_grad_() for x in tensors())
    cut = Segments.of(torch.tensor(BOUNDS, dtype=torch.int32), torch.device("meta"))
    assert choose("meta", dtype) == "torch_varlen"
    out = KERNELS["torch_varlen"](q, k, v, 0.0, 0.3, cut)
    assert (out.shape, out.dtype) == ((1, BOUNDS[-1], HEADS, DIM), dtype)
    assert [g.shape for g in torch.autograd.grad(out.sum(), (q, k, v))] == [x.shape for x in (q, k, v)]


BF16, FP32 = torch.bfloat16, torch.float32


@pytest.mark.parametrize(
    ("device", "dtype", "dropout", "installed", "ampere", "chosen"),
    [
        ("cpu", BF16, 0.0, {"flash", "varlen", "flex"}, True, "loop"),
        ("cpu", FP32, 0.0, set(), False, "loop"),
        ("cuda", BF16, 0.0, {"flash", "varlen", "flex"}, True, "flash_attn"),
        ("cuda", BF16, 0.0, {"varlen", "flex"}, True, "torch_varlen"),
        ("cuda", BF16, 0.0, {"flex"}, True, "flex"),
        ("cuda", BF16, 0.0, {"flash", "varlen", "flex"}, False, "flex"),
        ("cuda", FP32, 0.0, {"flash", "varlen", "flex"}, True, "flex"),
        ("cuda", BF16, 0.0, set(), True, "loop"),
        ("cuda", BF16, 0.1, {"flash", "varlen", "flex"}, True, "loop"),
    ],
)
def test_what_is_chosen_where(
    monkeypatch: pytest.MonkeyPatch,
    device: str, dtype: torch.dtype, dropout: float, installed: set[str], ampere: bool, chosen: str,
) -> None:  # fmt: skip
    for name, found in (("_flash_attn", "flash"), ("_torch_varlen", "varlen"), ("_flex", "flex")):
        monkeypatch.setattr(packing, name, lambda there=found in installed: print if there else None)
    monkeypatch.setattr(packing, "_has_tensor_cores", lambda: ampere)
    assert choose(device, dtype, dropout) == chosen


def test_missing_packages_are_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("flash_attn", "torch.nn.attention.varlen", "torch.nn.attention.flex_attention"):
        monkeypatch.setitem(sys.modules, name, None)
    assert packing._flash_attn() is packing._torch_varlen() is packing._flex() is None


def test_the_interface_takes_what_was_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packing, "choose", lambda *_: "flash_attn")
    monkeypatch.setitem(sys.modules, "flash_attn", fake_flash([]))
    q, k, v = tensors()
    out, weights = attention(torch.nn.Module(), q, k, v, None, segments=segments())
    assert weights is None
    assert (out - KERNELS["loop"](q, k, v, 0.0, None, segments())).abs().max() < 1e-5
