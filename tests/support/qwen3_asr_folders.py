"""Tiny checkpoints in the layout of Qwen3-ASR and Qwen3-ForcedAligner for transformers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tokenizers import pre_tokenizers
from transformers import (
    GenerationConfig,
    Qwen2Tokenizer,
    Qwen3ASRConfig,
    Qwen3ASRFeatureExtractor,
    Qwen3ASRForConditionalGeneration,
    Qwen3ASRForTokenClassification,
    Qwen3ASRProcessor,
)

SPECIAL = ["<|im_start|>", "<|im_end|>", "<|audio_start|>", "<|audio_end|>", "<|audio_pad|>"]
LENGTHS = (24_000, 25_600, 27_200)  # samples of audio that is taught
WRITTEN = ["<asr_text>", "<timestamp>"]  # tokens that decoding keeps
AUDIO = "<|audio_start|><|audio_pad|><|audio_end|>"
# The system's turn first, then the user's audio; the assistant's is begun where a language is asked for.
ASR_TEMPLATE = (
    "<|im_start|>system\n{% for m in messages if m.role == 'system' %}{{ m.content[0].text }}{% endfor %}<|im_end|>\n"
    f"<|im_start|>user\n{AUDIO}<|im_end|>\n"
    "{% for m in messages if m.role == 'assistant' %}<|im_start|>assistant\n{{ m.content[0].text }}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
ALIGNER_TEMPLATE = (
    AUDIO + "{% for c in messages[0].content if c.type == 'text' %}{{ c.text }}<timestamp><timestamp>{% endfor %}"
)


def tokenizer() -> Qwen2Tokenizer:
    """A byte is a token, and so are the special ones."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    made = Qwen2Tokenizer(
        vocab={c: i for i, c in enumerate(["<|endoftext|>", *letters])}, merges=[],
        extra_special_tokens={
            "audio_bos_token": "<|audio_start|>", "audio_eos_token": "<|audio_end|>", "audio_token": "<|audio_pad|>",
        },
    )  # fmt: skip
    made.add_tokens(SPECIAL, special_tokens=True)
    made.add_tokens(WRITTEN)
    return made


def _config(words: Qwen2Tokenizer, **more: Any) -> Qwen3ASRConfig:
    audio = {
        "encoder_layers": 1, "encoder_attention_heads": 2, "encoder_ffn_dim": 16, "d_model": 16, "output_dim": 48,
        "downsample_hidden_size": 4,
    }  # fmt: skip
    text = {
        "hidden_size": 48, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2,
        "num_key_value_heads": 1, "head_dim": 8, "vocab_size": len(words), "tie_word_embeddings": True,
    }  # fmt: skip
    ids = {
        "audio_token_id": words.convert_tokens_to_ids("<|audio_pad|>"),
        "timestamp_token_id": words.convert_tokens_to_ids("<timestamp>"),
        "pad_token_id": words.convert_tokens_to_ids("<|im_end|>"),
        "eos_token_id": [words.convert_tokens_to_ids(t) for t in ("<|endoftext|>", "<|im_end|>")],
    }
    return Qwen3ASRConfig(audio_config=audio, text_config=text, **ids, **more)


def _teach(model: Any, steps: int, loss: Callable[[int], torch.Tensor]) -> None:
    optimiser = torch.optim.Adam(model.parameters(), 5e-3)
    model.train()
    for step in range(steps):
        optimiser.zero_grad()
        loss(step % len(LENGTHS)).backward()
        optimiser.step()
    model.eval()


def asr_folder(folder: Path, wave: np.ndarray, answer: str, steps: int = 150) -> Path:
    """A recogniser that was taught to write one answer, ``language NAME<asr_text>…``, about any audio."""
    words = tokenizer()
    processor = Qwen3ASRProcessor(Qwen3ASRFeatureExtractor(), words, ASR_TEMPLATE)
    torch.manual_seed(5)
    config = _config(words)
    model = Qwen3ASRForConditionalGeneration(config)
    model.generation_config = GenerationConfig(
        eos_token_id=config.eos_token_id, pad_token_id=config.pad_token_id, do_sample=False, max_new_tokens=512
    )
    said = {"role": "assistant", "content": [{"type": "text", "text": answer}]}
    heard = [{"role": "user", "content": [{"type": "audio", "audio": np.resize(wave, n)}]} for n in LENGTHS]
    asked = [
        processor.apply_chat_template([[h, said]], tokenize=True, return_dict=True, output_labels=True) for h in heard
    ]
    _teach(model, steps, lambda i: model(**asked[i]).loss)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


def aligner_folder(folder: Path, wave: np.ndarray, text: str, classes: list[int], steps: int = 150) -> Path:
    """An aligner that was taught the times of one text: of each word the beginning and the end, in 80 ms."""
    words = tokenizer()
    processor = Qwen3ASRProcessor(Qwen3ASRFeatureExtractor(), words, ALIGNER_TEMPLATE)
    torch.manual_seed(6)
    model = Qwen3ASRForTokenClassification(_config(words, num_labels=40))
    asked = [processor.prepare_forced_aligner_inputs(np.resize(wave, n), text, "English")[0] for n in LENGTHS]
    wanted = torch.tensor(classes)

    def loss(i: int) -> torch.Tensor:
        marks = asked[i]["input_ids"] == model.config.timestamp_token_id
        return torch.nn.functional.cross_entropy(model(**asked[i]).logits[marks], wanted)

    _teach(model, steps, loss)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder
