"""sdpa that also gives the attention weights of chosen layers and heads, for stage 0's LLM.

transformers' ``eager`` gives those of all layers and heads, and computes all of them one operation after another.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor, nn

NAME = "speakerlm_shown"


class Shown:
    """Attention weights that a forward leaves for the loss."""

    def __init__(self, layers: tuple[int, ...], heads: int) -> None:
        """Ask for the first heads of layers; these heads must share the first key."""
        self.layers, self.heads = layers, heads
        self.weights: list[Tensor] = []  # (B, heads, L, L) of each layer


def register() -> str:
    """Make the attention known to transformers; return the name to give as ``attn_implementation``."""
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.masking_utils import sdpa_mask

    AttentionInterface.register(NAME, attention)
    AttentionMaskInterface.register(NAME, sdpa_mask)
    return NAME


def attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor,
    dropout: float = 0.0,
    scaling: float | None = None,
    shown: Shown | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """transformers' attention interface: query (B, H, L, D), key and value (B, G, L, D) → (B, L, H, D)."""
    from transformers.integrations.sdpa_attention import sdpa_attention_forward

    if shown is not None and module.layer_idx in shown.layers:
        scores = query[:, : shown.heads] @ key[:, :1].transpose(2, 3) * (scaling or query.shape[-1] ** -0.5)
        shown.weights.append((scores + attention_mask).softmax(-1))
    return sdpa_attention_forward(module, query, key, value, attention_mask, dropout, scaling, **kwargs)
