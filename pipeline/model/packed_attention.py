"""Attention over packed sequences: many samples one after the other in one row, none seeing another.

Registered with transformers as ``speakerlm_varlen``, so any of its causal LMs can use it. Everything but attention runs
once over the packed row. With segments given, attention is causal inside each: on a GPU by flash-attn where it is
installed, else by torch's own variable-length kernel, else (fp32, older cards) by flex_attention; by a loop over
segments on a CPU, where a block mask costs 2–3 times a padded batch. Without segments, which is generation with its
cache, it is plain sdpa with its mask.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, cached_property
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from shards.errors import ModelError

NAME = "speakerlm_varlen"


@dataclass(frozen=True)
class Segments:
    """Bounds of the samples in a packed row; made once for each micro-batch, used by every layer."""

    bounds: tuple[int, ...]  # B + 1 positions on the host
    cu_seqlens: Tensor  # the same, int32, on the device
    max_length: int

    @cached_property
    def block_mask(self) -> Any:
        """For flex_attention: the blocks in which a position sees itself and what comes before it in its segment."""
        from torch.nn.attention.flex_attention import create_block_mask

        length = self.bounds[-1]
        places = torch.arange(length, device=self.cu_seqlens.device)
        segment = torch.bucketize(places, self.cu_seqlens[1:], right=True)

        def visible(batch: Tensor, head: Tensor, i: Tensor, j: Tensor) -> Tensor:
            return (segment[i] == segment[j]) & (i >= j)

        return create_block_mask(visible, None, None, length, length, device=str(self.cu_seqlens.device))

    @classmethod
    def of(cls, cu_seqlens: Tensor, device: torch.device) -> Segments:
        """From (B + 1,) bounds. On the host they are free; read from a GPU they would wait for the device."""
        bounds = tuple(cu_seqlens.tolist())
        longest = max(b - a for a, b in pairwise(bounds))
        return cls(bounds, cu_seqlens.to(device=device, dtype=torch.int32, non_blocking=True), longest)


def register() -> str:
    """Make the attention known to transformers; returns the name to give as ``attn_implementation``."""
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.masking_utils import sdpa_mask

    AttentionInterface.register(NAME, attention)
    AttentionMaskInterface.register(NAME, sdpa_mask)
    return NAME


def no_mask(device: torch.device) -> Tensor:
    """Return the ``attention_mask`` of a packed forward.

    transformers hands a 4-D mask on as it is. Without one it would look for restarting ``position_ids`` and build a
    mask of length × length; :func:`attention` ignores the mask where segments are given.
    """
    return torch.ones(1, 1, 1, 1, dtype=torch.bool, device=device)


def attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    segments: Segments | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """transformers' attention interface: query (1, H, L, D), key and value (1, G, L, D) → (1, L, H, D)."""
    if segments is None:
        from transformers.integrations.sdpa_attention import sdpa_attention_forward

        return sdpa_attention_forward(module, query, key, value, attention_mask, dropout, scaling, **kwargs)
    _refuse(type(module).__name__, segments.max_length, kwargs)
    name = choose(query.device.type, query.dtype, dropout)
    return KERNELS[name](query, key, value, dropout, scaling, segments), None


def _refuse(layer: str, longest: int, asked: dict[str, Any]) -> None:
    """Raise ModelError where a layer asks for attention that no kernel here computes."""
    window = asked.get("sliding_window")
    if window and longest > window:
        raise ModelError(
            f"{layer} attends over a window of {window} positions and a sample has {longest}: "
            "lower data.max_positions, or turn the window off in the LLM's config.json"
        )
    if odd := [name for name in ("softcap", "s_aux") if asked.get(name) is not None]:
        raise ModelError(
            f"{layer} asks for {' and '.join(odd)}, which packed attention does not compute: use another LLM"
        )


def choose(device: str, dtype: torch.dtype, dropout: float = 0.0) -> str:
    """Which of :data:`KERNELS` computes attention with segments here."""
    if device == "meta":
        return "torch_varlen" if _torch_varlen() is not None else "loop"  # for planning what a GPU does
    if device != "cuda" or dropout:
        return "loop"
    if dtype in (torch.bfloat16, torch.float16) and _has_tensor_cores():
        if _flash_attn() is not None:
            return "flash_attn"
        if _torch_varlen() is not None:
            return "torch_varlen"
    return "flex" if _flex() is not None else "loop"


def _loop(q: Tensor, k: Tensor, v: Tensor, dropout: float, scale: float | None, segments: Segments) -> Tensor:
    """Causal attention segment by segment."""
    if k.shape[1] != q.shape[1]:
        groups = q.shape[1] // k.shape[1]
        k, v = k.repeat_interleave(groups, 1), v.repeat_interleave(groups, 1)
    sizes = [b - a for a, b in pairwise(segments.bounds)]
    # split, not slices: backward of a slice fills a whole row with zeros, that of a split joins the parts once.
    parts = [
        functional.scaled_dot_product_attention(*qkv, dropout_p=dropout, is_causal=True, scale=scale)
        for qkv in zip(q.split(sizes, 2), k.split(sizes, 2), v.split(sizes, 2), strict=True)
    ]
    return torch.cat(parts, 2).transpose(1, 2)


def _rows(*heads: Tensor) -> tuple[Tensor, ...]:
    """(1, heads, L, D) → (L, heads, D), as variable-length kernels take them."""
    return tuple(x[0].transpose(0, 1).contiguous() for x in heads)


def _by_flash_attn(q: Tensor, k: Tensor, v: Tensor, dropout: float, scale: float | None, segments: Segments) -> Tensor:
    q, k, v = _rows(q, k, v)
    bounds, longest = segments.cu_seqlens, segments.max_length
    exact = torch.are_deterministic_algorithms_enabled()  # the package does not ask torch
    out: Tensor = _flash_attn()(
        q, k, v, bounds, bounds, longest, longest, softmax_scale=scale, causal=True, deterministic=exact
    )
    return out.unsqueeze(0)


def _by_torch_varlen(
    q: Tensor, k: Tensor, v: Tensor, dropout: float, scale: float | None, segments: Segments
) -> Tensor:
    q, k, v = _rows(q, k, v)
    out: Tensor = _torch_varlen()(q, k, v, segments.cu_seqlens, segments.max_length, scale)
    return out.unsqueeze(0)


def _by_flex(q: Tensor, k: Tensor, v: Tensor, dropout: float, scale: float | None, segments: Segments) -> Tensor:
    out: Tensor = _flex()(q, k, v, block_mask=segments.block_mask, scale=scale, enable_gqa=k.shape[1] != q.shape[1])
    return out.transpose(1, 2)


KERNELS: dict[str, Callable[[Tensor, Tensor, Tensor, float, float | None, Segments], Tensor]] = {
    "flash_attn": _by_flash_attn,  # the flash-attn package
    "torch_varlen": _by_torch_varlen,  # torch.nn.attention.varlen
    "flex": _by_flex,  # torch's flex_attention, compiled: fp32, and cards before Ampere
    "loop": _loop,
}


@cache
def _has_tensor_cores() -> bool:
    """Whether this process's card runs FlashAttention 2: Ampere or later."""
    return torch.cuda.get_device_capability() >= (8, 0)


@cache
def _flex() -> Any:
    """torch's flex_attention, compiled once for any length."""
    try:
        from torch.nn.attention.flex_attention import flex_attention
    except ImportError:
        return None
    return torch.compile(flex_attention, dynamic=True)


@cache
def _flash_attn() -> Any:
    try:
        from flash_attn import flash_attn_varlen_func
    except ImportError:
        return None
    return flash_attn_varlen_func


@cache
def _torch_varlen() -> Any:
    """torch's variable-length attention behind one signature: its arguments changed between releases."""
    try:
        from torch.nn.attention.varlen import varlen_attn
    except ImportError:
        return None
    known = inspect.signature(varlen_attn).parameters
    causal: dict[str, Any] = {"is_causal": True} if "is_causal" in known else {"window_size": (-1, 0)}

    def run(q: Tensor, k: Tensor, v: Tensor, bounds: Tensor, longest: int, scale: float | None) -> Tensor:
        extra = dict(causal)
        if "enable_gqa" in known:
            extra["enable_gqa"] = k.shape[1] != q.shape[1]
        elif k.shape[1] != q.shape[1]:
            groups = q.shape[1] // k.shape[1]
            k, v = k.repeat_interleave(groups, 1), v.repeat_interleave(groups, 1)
        if "scale" in known:
            extra["scale"] = scale
        elif scale is not None:
            q = q * (scale * q.shape[-1] ** 0.5)  # the kernel divides by sqrt(D) itself
        out = varlen_attn(q, k, v, bounds, bounds, longest, longest, **extra)
        assert isinstance(out, Tensor)  # a pair only where its statistics are asked for
        return out

    return run
