"""A finished run as a model that decodes."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pipeline.prompts import PromptTokenizer


def load_for_decoding(run: Path, device: str, move: bool = True) -> tuple[Any, PromptTokenizer, Any]:
    """Load a finished run: its model on a device in eval mode (bfloat16 on a GPU), tokenizer and recipe.

    Args:
        move: to the device; False leaves it in the host's memory.

    Raises:
        ModelError, ConfigError: as :func:`pipeline.model.build.load_finished_run`.
    """
    import torch

    from pipeline.model.build import load_finished_run

    dtype = torch.bfloat16 if device.startswith("cuda") else torch.float32
    model, tokenizer, recipe = load_finished_run(run, dtype)
    model.eval()
    return model.to(device) if move else model, tokenizer, recipe
