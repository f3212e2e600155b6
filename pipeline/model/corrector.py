"""SD+ASR+LLM, fine-tuned: a causal LM with LoRA that learns corrections on this project's trainer

It has the calls of SpeakerLM that the trainer knows, without audio: packed positions in, the sum of token losses out.
Its own weights are the LoRA; a finished run's folder is what ``speakerlm-baseline correct --llm`` takes.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor, nn

from pipeline.model.causal_lm import load_llm
from pipeline.model.lora import add_lora
from pipeline.model.own_weights import base_hashes
from pipeline.model.packed_forward import (
    SpeakerLMOutput,
    packed_hidden_states,
    packed_loss,
    set_checkpointing,
    set_llm_mode,
)
from pipeline.recipe.schema import ModelConfig
from pipeline.stages import module_of
from shards.weights.hubs import resolve_checkpoint


class Corrector(nn.Module):
    """An LLM whose base is frozen, and its LoRA."""

    def __init__(self, llm: Any, lora: dict[str, Any], checkpoint_every: int) -> None:
        """Put LoRA into an LLM in place; it starts as the LLM itself."""
        super().__init__()
        self.llm = llm
        self.bases: dict[str, str] = {}  # hashes of what its own weights were trained on
        add_lora(llm, lora)
        if checkpoint_every:
            set_checkpointing(llm, checkpoint_every)

    def trainable(self, modules: Iterable[str]) -> list[str]:
        """Freeze everything but these modules; returns the names of trainable parameters."""
        chosen = frozenset(modules)
        for name, parameter in self.named_parameters():
            parameter.requires_grad_(module_of(name) in chosen)
        return [name for name, parameter in self.named_parameters() if parameter.requires_grad]

    def train(self, mode: bool = True) -> Corrector:
        """Only LoRA's dropout follows ``mode``, and the flag of layers that recompute their activations."""
        super().train(mode)
        set_llm_mode(self.llm, mode, lora_trained=True)
        return self

    def forward(
        self,
        input_ids: Tensor,
        position_ids: Tensor,
        cu_seqlens: Tensor,
        target_index: Tensor,
        target_ids: Tensor,
        weight: float = 1.0,
        each_token: bool = False,
    ) -> SpeakerLMOutput:
        """Sum of token losses of packed pairs; arguments as of :class:`SpeakerLMForConditionalGeneration`."""
        hidden = packed_hidden_states(self.llm, position_ids, cu_seqlens, input_ids=input_ids)
        return packed_loss(self.llm, hidden, target_index, target_ids, weight, each_token)


def build_corrector(
    cfg: ModelConfig,
    *,
    ds_config: Mapping[str, Any] | None = None,
    dtype: torch.dtype = torch.float32,
    seed: int = 1,
) -> Corrector:
    """The recipe's LLM with a LoRA that is a function of ``seed``; arguments and errors as of ``build_model``."""
    folder = resolve_checkpoint(cfg.llm.checkpoint, cfg.llm.hub)
    llm = load_llm(folder, ds_config=ds_config, dtype=dtype)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = Corrector(llm, asdict(cfg.lora), cfg.activation_checkpointing.llm_every)
    model.bases = base_hashes(folder)
    return model
