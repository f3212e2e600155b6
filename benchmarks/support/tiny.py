"""Checkpoints small enough for a test, in the layouts of the real ones."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from pipeline.recipe.schema import EncoderConfig, LlmConfig, LoraConfig, ModelConfig, ProjectorConfig
from pipeline.standins.random_models import make_encoder, make_llm, make_tokenizer

__all__ = ["TEXTS", "TinyBase", "make_base", "make_encoder", "make_llm", "make_tokenizer", "model_config"]

TEXTS = (
    "You are a helpful assistant.\nRegistered Speaker Embeddings:\nMike<start><end>;\nLucy<start><end>;\n"
    "Transcribe by roles. <start><end>\nTranscribe the speech. <start><end>",
    "system user assistant Mike: hi, how are you?\nLucy: hi, I'm fine.\nspk0: yes\nspk1: no\nspk2: one two three",
    "你好，世界！今天天气怎么样？嗯，对，然后呢。谁在什么时候说了什么。零一二三四五六七八九",
)


@dataclass(frozen=True)
class TinyBase:
    """Folders of an encoder, and of an LLM with its tokenizer."""

    encoder: Path
    llm: Path


def make_base(
    folder: Path, *, layers: int = 2, seed: int = 0, tied: bool = False, max_shard_size: str = "5GB", heads: int = 4
) -> TinyBase:
    """Encoder of ``layers`` + 1 blocks and Qwen2 of ``layers``, both of 64 dimensions, with a trained tokenizer.

    Args:
        heads: of the LLM; vLLM on a CPU takes heads of 32 dimensions and more.
    """
    llm = make_tokenizer(folder / "llm", TEXTS)
    vocab = tokenizer_size(llm)
    make_llm(llm, vocab, layers=layers, heads=heads, tied=tied, max_shard_size=max_shard_size, seed=seed)
    return TinyBase(make_encoder(folder / "encoder", 64, layers, 1, seed=seed), llm)


def model_config(base: TinyBase, *, speaker_dim: int = 16, dropout: float = 0.0) -> ModelConfig:
    """A recipe's model section over these folders. Without dropout, so that two computations can be compared."""
    return ModelConfig(
        encoder=EncoderConfig(checkpoint=str(base.encoder), dropout=dropout),
        projector=ProjectorConfig(heads=4, ffn=128, dropout=dropout),
        llm=LlmConfig(checkpoint=str(base.llm)),
        lora=LoraConfig(r=4, alpha=8, dropout=dropout),
        speaker_dim=speaker_dim,
        extractor="random",
    )


def tokenizer_size(folder: Path) -> int:
    """Number of ids that the tokenizer of a folder uses."""
    from transformers import AutoTokenizer

    return len(AutoTokenizer.from_pretrained(str(folder)))
