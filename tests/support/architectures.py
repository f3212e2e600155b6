"""Small causal LMs of several families, beside a tokenizer that is already there."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.support.tiny import tokenizer_size

SIZES: dict[str, Any] = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4}


def make_causal_lm(folder: Path, kind: str, max_shard_size: str = "5GB", **conf: Any) -> Path:
    """Replace the LLM of a folder by a random one of transformers' model type ``kind``."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    for old in (*folder.glob("*.safetensors*"), folder / "config.json", folder / "generation_config.json"):
        old.unlink(missing_ok=True)
    groups = {} if kind == "gpt_neox" else {"num_key_value_heads": 2}
    sizes = {**SIZES, **groups, "max_position_embeddings": 4096, "vocab_size": tokenizer_size(folder), **conf}
    with torch.random.fork_rng():
        torch.manual_seed(4)
        model = AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **sizes))
    model.save_pretrained(str(folder), max_shard_size=max_shard_size)
    return folder
