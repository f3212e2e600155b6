"""The part of a packed forward that SpeakerLM and the corrector share: LLM over packed positions, loss, train mode."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor
from transformers.utils import ModelOutput

from pipeline.model.loss import token_losses, token_losses_sum
from pipeline.model.packed_attention import Segments, no_mask


@dataclass
class SpeakerLMOutput(ModelOutput):
    """Output of a packed forward."""

    loss: Tensor | None = None  # Σ token losses × weight, fp32 scalar
    num_targets: int | None = None
    token_losses: Tensor | None = None  # fp32 (T,), unweighted, if asked for or if targets have weights


def packed_hidden_states(llm: Any, position_ids: Tensor, cu_seqlens: Tensor, **inputs: Tensor) -> Tensor:
    """Run the LLM without its head over packed samples, (L, H).

    Args:
        inputs: ``input_ids`` (L,) or ``inputs_embeds`` (L, H).
    """
    device = next(iter(inputs.values())).device
    hidden: Tensor = llm.get_decoder()(
        **{name: value.unsqueeze(0) for name, value in inputs.items()},
        attention_mask=no_mask(device),
        position_ids=position_ids.unsqueeze(0),
        segments=Segments.of(cu_seqlens, device),
        use_cache=False,
    ).last_hidden_state[0]
    return hidden


def packed_loss(
    llm: Any,
    hidden: Tensor,
    target_index: Tensor,
    target_ids: Tensor,
    weight: float | Tensor,
    each_token: bool,
    target_weights: Tensor | None = None,
) -> SpeakerLMOutput:
    """Sum the token losses at (T,) positions of hidden states (L, H), each times its weight.

    Args:
        each_token: give each loss too, unweighted; nothing has a gradient then.
        target_weights: (T,); None: all 1.
    """
    head, predicting = llm.get_output_embeddings(), hidden.index_select(0, target_index)
    if each_token:
        losses = token_losses(head, predicting, target_ids)
        summed = losses if target_weights is None else losses * target_weights
        return SpeakerLMOutput(loss=summed.sum() * weight, num_targets=len(target_ids), token_losses=losses)
    each = None if target_weights is None else target_weights.new_empty(target_weights.shape)
    loss = token_losses_sum(head, predicting, target_ids, target_weights, each=each)
    return SpeakerLMOutput(loss=loss * weight, num_targets=len(target_ids), token_losses=each)


def set_llm_mode(llm: Any, mode: bool, lora_trained: bool) -> None:
    """Keep the LLM's frozen base in eval mode; only LoRA's dropout follows ``mode``.

    Decoder layers carry the bare flag, without their children, because transformers recomputes activations only in
    layers in train mode.
    """
    llm.eval()
    for name, module in llm.named_modules():
        if "lora_dropout" in name:
            module.train(mode and lora_trained)
        elif getattr(module, "gradient_checkpointing", False):
            module.training = mode


def set_checkpointing(llm: Any, every: int) -> None:
    """Recompute in backward the activations of every n-th decoder layer, the first among them; 0: of none."""
    # Before transformers 5.23 the methods had another name, and took no number.
    name = "activation" if hasattr(llm, "activation_checkpointing_enable") else "gradient"
    getattr(llm, f"{name}_checkpointing_{'enable' if every else 'disable'}")()
    if every > 1:
        from transformers.modeling_layers import GradientCheckpointingLayer

        for i, layer in enumerate(m for m in llm.modules() if isinstance(m, GradientCheckpointingLayer)):
            layer.gradient_checkpointing = i % every == 0
