"""Liger's Triton kernels in the LLM: norms, rotary embedding and SwiGLU, one kernel each, forward and backward.

They keep fewer activations than transformers' own: of a norm its input, of SwiGLU its two factors. Values differ by
rounding. Weights are not touched, so a run can switch at any checkpoint, and what it trained runs without them.
"""

from __future__ import annotations

import inspect
import os
from typing import TYPE_CHECKING

import torch

from shards.errors import ModelError

if TYPE_CHECKING:
    from transformers import PreTrainedModel

OFF = "set model.llm.liger: false"
LOSSES = ("cross_entropy", "fused_linear_cross_entropy")  # the project's own loss needs no logits either


def use_liger(llm: PreTrainedModel) -> None:
    """Replace the forward of the LLM's norms and feed-forward layers in place, and rotary embedding in its module.

    Raises:
        ModelError: there is no GPU, no package liger-kernel, or it has no kernels for this LLM.
    """
    if not torch.cuda.is_available() and os.environ.get("TRITON_INTERPRET") != "1":
        raise ModelError(f"model.llm.liger: Liger's kernels run on a GPU, and this machine has no GPU: {OFF}")
    try:
        from liger_kernel.transformers import monkey_patch
    except ImportError as e:
        raise ModelError(f"model.llm.liger: {e}: pip install liger-kernel, or {OFF}") from e
    known, kind = monkey_patch.MODEL_TYPE_TO_APPLY_LIGER_FN, llm.config.model_type
    if kind not in known:
        raise ModelError(f"model.llm.liger: liger-kernel has none for {kind}: {OFF}")
    takes = inspect.signature(known[kind]).parameters
    known[kind](model=llm, **{name: False for name in LOSSES if name in takes})
