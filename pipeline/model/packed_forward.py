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
    token_losses: Tensor | None = None  # fp32 (T,), if asked for


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
    llm: Any, hidden: Tensor, target_index: Tensor, target_ids: Tensor, weight: float | Tensor, each_token: bool
) -> SpeakerLMOutput:
    """Sum the token losses at (T,) positions of hidden states (L, H); ``each_token``: each too, without gradient."""
    head, predicting = llm.get_output_embeddings(), hidden.index_select(0, target_index)
    if each_token:
        losses = token_losses(head, predicting, target_ids)
        return SpeakerLMOutput(loss=losses.sum() * weight, num_targets=len(target_ids), token_losses=losses)
    loss = token_losses_sum(head, predicting, target_ids)
    return SpeakerLMOutput(loss=loss * weight, num_targets=len(target_ids))


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


def enable_checkpointing(llm: Any) -> None:
    """Recompute the LLM's activations in backward."""
    # Before transformers 5.23 the method had another name.
    name = "activation" if hasattr(llm, "activation_checkpointing_enable") else "gradient"
    getattr(llm, f"{name}_checkpointing_enable")()
