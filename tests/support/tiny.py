"""Checkpoints small enough for a test, shared with the benchmarks."""

from __future__ import annotations

from benchmarks.support.tiny import (
    TEXTS,
    TinyBase,
    make_base,
    make_encoder,
    make_llm,
    make_tokenizer,
    model_config,
    tokenizer_size,
)

__all__ = [
    "TEXTS",
    "TinyBase",
    "make_base",
    "make_encoder",
    "make_llm",
    "make_tokenizer",
    "model_config",
    "tokenizer_size",
]
