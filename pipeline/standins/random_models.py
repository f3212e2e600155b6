"""Small models with random weights, and a tokenizer, in the layouts of the public checkpoints."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from pipeline.model.encoders.sensevoice import sensevoice_conf
from pipeline.standins.encoder_folders import write_sensevoice_folder

# The pattern by which Qwen2.5's tokenizer.json splits text before byte-pair encoding, and its chat template.
QWEN_PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
CHATML = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


def make_encoder(
    folder: Path, dim: int = 64, blocks: int = 2, tp_blocks: int = 1, *, seed: int = 0, **conf: Any
) -> Path:
    """A random SenseVoice encoder as a checkpoint folder. ``conf`` overrides fields of :func:`sensevoice_conf`."""
    import torch

    from pipeline.model.sensevoice_encoder import encoder_class

    full = {**sensevoice_conf(dim, blocks, tp_blocks), **conf}
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        encoder = encoder_class("SenseVoiceEncoderSmall")(input_size=560, **full)
    # About what log-mel energies of 16-bit speech need to reach zero mean and unit variance.
    return write_sensevoice_folder(folder, encoder.state_dict(), full, shift=[-8.0] * 560, scale=[0.2] * 560)


def make_tokenizer(folder: Path, texts: Iterable[str], vocab_size: int = 600) -> Path:
    """Byte-level BPE trained on ``texts``, with Qwen2.5's splitting pattern, special tokens and chat template.

    Any text encodes, whatever the training texts held: the 256 bytes are in the vocabulary.
    """
    from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    core = Tokenizer(models.BPE())
    core.normalizer = normalizers.NFC()
    core.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(QWEN_PATTERN), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    core.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    core.train_from_iterator(texts, trainer)
    specials = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    core.add_special_tokens([AddedToken(s, normalized=False, special=True) for s in specials])
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=core,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        clean_up_tokenization_spaces=False,
        model_max_length=32768,
    )
    tokenizer.chat_template = CHATML
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save_pretrained(str(folder))
    return folder


def make_llm(
    folder: Path,
    vocab_size: int,
    *,
    hidden: int = 64,
    layers: int = 2,
    heads: int = 4,
    kv_heads: int = 2,
    ffn: int | None = None,
    tied: bool = False,
    max_shard_size: str = "5GB",
    dtype: str = "float32",
    seed: int = 0,
) -> Path:
    """A random Qwen2 causal LM in the Hugging Face layout, beside whatever tokenizer the folder already holds."""
    import torch
    from transformers import Qwen2Config, Qwen2ForCausalLM

    config = Qwen2Config(
        vocab_size=vocab_size,
        hidden_size=hidden,
        intermediate_size=ffn or 3 * hidden,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=kv_heads,
        max_position_embeddings=32768,
        tie_word_embeddings=tied,
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        llm = Qwen2ForCausalLM(config).to(getattr(torch, dtype))
    llm.save_pretrained(str(folder), max_shard_size=max_shard_size)
    return folder
