"""Attention over packed texts that also gives the weights of chosen layers and heads, for stage 0's LLM.

transformers' ``eager`` gives those of all layers, heads and positions, one operation after another.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pipeline.standins.packed_texts import PackedTexts

if TYPE_CHECKING:
    from torch import Tensor, nn

NAME = "speakerlm_shown"


class Shown:
    """Attention weights that a forward leaves for the loss."""

    def __init__(self, layers: tuple[int, ...], heads: int) -> None:
        """Ask for the first heads of layers; these heads must share the first key."""
        self.layers, self.heads = layers, heads
        self.weights: list[Tensor] = []  # of each layer (P, heads, L), see :meth:`PackedTexts.weights`


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
    texts: PackedTexts | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """transformers' attention interface: query (1, H, N, D), key and value (1, G, N, D) → (1, N, H, D).

    Without ``texts`` it is sdpa with its mask, of any number of rows.
    """
    from transformers.integrations.sdpa_attention import sdpa_attention_forward

    if texts is None:
        return sdpa_attention_forward(module, query, key, value, attention_mask, dropout, scaling, **kwargs)
    scale = scaling or query.shape[-1] ** -0.5
    if shown is not None and module.layer_idx in shown.layers:
        shown.weights.append(texts.weights(query[0, : shown.heads], key[0, 0], scale))
    return texts.attend(query[0], key[0], value[0], scale).unsqueeze(0), None
