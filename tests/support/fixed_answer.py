"""An LLM that answers every prompt with one text: each token says which one comes next."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from pipeline.prompts import PromptTokenizer


def always_answer(llm: Path, text: str) -> None:
    """Change a tiny Qwen2 folder: its blocks pass their input through, its output layer is a chain of tokens."""
    tokenizer = PromptTokenizer.from_folder(llm)
    chain = [tokenizer.suffix[-1], *tokenizer.encode_common(text), tokenizer.eos]
    assert len(set(chain)) == len(chain), "a token that comes twice has two successors"
    path = llm / "model.safetensors"
    weights = load_file(path)
    for name, tensor in weights.items():
        if name.endswith(("o_proj.weight", "down_proj.weight")):
            tensor.zero_()
    embeddings, head = weights["model.embed_tokens.weight"], weights["lm_head.weight"]
    head.zero_()
    for token, following in pairwise(chain):
        head[following] += 50 * torch.nn.functional.normalize(embeddings[token], dim=0)
    save_file(weights, path, metadata={"format": "pt"})
