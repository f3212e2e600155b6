"""Thinkers of Qwen2.5-Omni and Qwen3-Omni small enough for a test, in the layout of the published checkpoints."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from pipeline.recipe.schema import LlmConfig, LoraConfig, ModelConfig
from pipeline.standins.random_models import make_tokenizer
from tests.support.tiny import TEXTS, tokenizer_size

AUDIO_TOKENS = {
    "qwen2.5-omni": ("<|audio_bos|>", "<|AUDIO|>", "<|audio_eos|>"),
    "qwen3-omni": ("<|audio_start|>", "<|audio_pad|>", "<|audio_end|>"),
}
_AUDIO = {
    "d_model": 32,
    "encoder_layers": 2,
    "encoder_attention_heads": 4,
    "encoder_ffn_dim": 48,
    "num_mel_bins": 128,
    "output_dim": 64,
}
_TEXT = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 32768,
}


def make_thinker(folder: Path, base: str, *, seed: int = 0, layers: int = 2, experts: int = 4) -> Path:
    """A random thinker with its tokenizer, as a folder of the whole model without a talker."""
    import torch
    from transformers import AddedToken, AutoTokenizer

    make_tokenizer(folder, TEXTS)
    tokenizer = AutoTokenizer.from_pretrained(str(folder))
    tokenizer.add_tokens([AddedToken(t, special=True, normalized=False) for t in AUDIO_TOKENS[base]])
    tokenizer.save_pretrained(str(folder))
    config = _config(base, tokenizer, tokenizer_size(folder), layers, experts)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = _whole(base)(config)
        for name, p in model.named_parameters():
            if name.endswith("lm_head.weight"):
                p.data *= 20  # so that a frozen output layer can say anything with certainty
    model.save_pretrained(str(folder))
    _write_processor(folder)
    return folder


def thinker_config(folder: Path, base: str, dropout: float = 0.0) -> ModelConfig:
    """A recipe's model section over such a folder."""
    return ModelConfig(
        base=base,
        llm=LlmConfig(checkpoint=str(folder)),
        lora=LoraConfig(r=4, alpha=8, dropout=dropout),
        extractor="none",
    )


def _config(base: str, tokenizer: Any, vocabulary: int, layers: int, experts: int) -> Any:
    from transformers.models.qwen2_5_omni import configuration_qwen2_5_omni as two
    from transformers.models.qwen3_omni_moe import configuration_qwen3_omni_moe as three

    start, pad, end = tokenizer.convert_tokens_to_ids(list(AUDIO_TOKENS[base]))
    text: dict[str, Any] = {**_TEXT, "num_hidden_layers": layers, "vocab_size": vocabulary}
    vision = {"depth": 1, "hidden_size": 32, "intermediate_size": 32, "num_heads": 2, "out_hidden_size": 64}
    if base == "qwen2.5-omni":
        text["rope_parameters"] = {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [2, 3, 3]}
        thinker = two.Qwen2_5OmniThinkerConfig(
            audio_config={**_AUDIO, "n_window": 20},
            text_config=text,
            vision_config={**vision, "fullatt_block_indexes": [0]},
            audio_token_index=pad,
            audio_start_token_id=start,
            audio_end_token_id=end,
            vision_start_token_id=1,  # as the published configuration states one
        )
        return two.Qwen2_5OmniConfig(thinker_config=thinker.to_dict(), enable_audio_output=False)
    text |= {
        "head_dim": 32,
        "num_experts": experts,
        "num_experts_per_tok": 2,
        "moe_intermediate_size": 24,
        "rope_parameters": {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [6, 5, 5]},
    }
    thinker3 = three.Qwen3OmniMoeThinkerConfig(
        audio_config={**_AUDIO, "downsample_hidden_size": 8, "n_window_infer": 200},
        text_config=text,
        vision_config={**vision, "num_position_embeddings": 16, "deepstack_visual_indexes": [0]},
        audio_token_id=pad,
        audio_start_token_id=start,
        vision_start_token_id=1,
    )
    return three.Qwen3OmniMoeConfig(thinker_config=thinker3.to_dict(), enable_audio_output=False)


def _whole(base: str) -> Any:
    import transformers

    if base == "qwen2.5-omni":
        return transformers.Qwen2_5OmniForConditionalGeneration
    return transformers.Qwen3OmniMoeForConditionalGeneration


def _write_processor(folder: Path) -> None:
    """The feature extractor's file, as the published folders have it."""
    conf = {"feature_extractor_type": "WhisperFeatureExtractor", "feature_size": 128, "return_attention_mask": True}
    (folder / "preprocessor_config.json").write_text(json.dumps(conf))
