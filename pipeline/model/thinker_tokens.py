"""Prompts of a thinker: the project's pieces with the model's own marks around an audio, and no system line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pipeline.prompts import PromptTokenizer
from pipeline.stages import Base
from shards.errors import ModelError

MARKS = {  # before and after an audio
    Base.QWEN2_5_OMNI: ("<|audio_bos|>", "<|audio_eos|>"),
    Base.QWEN3_OMNI: ("<|audio_start|>", "<|audio_end|>"),
}


class ThinkerTokenizer(PromptTokenizer):
    """A thinker's tokenizer. The marks that pieces write as ``<start>`` and ``<end>`` are one token each."""

    def __init__(self, tokenizer: Any, base: Base) -> None:
        """Find the marks of this model.

        Raises:
            ModelError: the tokenizer lacks one, or has no chat template or end-of-turn token.
        """
        super().__init__(tokenizer, system="")
        known = tokenizer.get_vocab()
        if missing := [mark for mark in MARKS[base] if mark not in known]:
            raise ModelError(
                f"tokenizer {tokenizer.name_or_path} lacks {', '.join(missing)}: it is not that of {base}; set "
                "model.base and model.llm.checkpoint to the same model"
            )
        self._marks = {text: (known[mark],) for text, mark in zip(("<start>", "<end>"), MARKS[base], strict=True)}

    @classmethod
    def of_base(cls, folder: Path, base: Base) -> ThinkerTokenizer:
        """Load the tokenizer of a thinker's folder.

        Raises:
            ModelError: the folder holds no usable tokenizer, or that of another model.
        """
        from transformers import AutoTokenizer

        try:
            return cls(AutoTokenizer.from_pretrained(str(folder)), base)
        except (OSError, ValueError, KeyError) as e:
            raise ModelError(f"{folder}: no usable tokenizer (tokenizer.json, tokenizer_config.json): {e}") from e

    def encode_common(self, text: str) -> tuple[int, ...]:
        """As the base class, but a mark is its special token."""
        return self._marks.get(text) or super().encode_common(text)
