"""The model's shape from a recipe, without weights: config files where the checkpoints lie, known shapes elsewhere."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from pipeline.model.sensevoice_folder import read_sensevoice_folder, sensevoice_conf
from pipeline.model.speech_encoder import dropout_names, feature_width
from pipeline.model.whisper_encoder import WHISPER
from pipeline.model.whisper_folder import read_whisper_folder, whisper_conf
from pipeline.recipe.schema import ModelConfig
from shards.errors import ModelError


def _qwen(hidden: int, ffn: int, layers: int, heads: int, kv_heads: int, vocab: int, tied: bool) -> dict[str, Any]:
    return {
        "model_type": "qwen2",
        "hidden_size": hidden,
        "intermediate_size": ffn,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "vocab_size": vocab,
        "tie_word_embeddings": tied,
    }


# From the config.json files that Qwen publishes, and SenseVoiceSmall's config.yaml.
LLMS = {
    "Qwen2.5-0.5B-Instruct": _qwen(896, 4864, 24, 14, 2, 151936, True),
    "Qwen2.5-1.5B-Instruct": _qwen(1536, 8960, 28, 12, 2, 151936, True),
    "Qwen2.5-3B-Instruct": _qwen(2048, 11008, 36, 16, 2, 151936, True),
    "Qwen2.5-7B-Instruct": _qwen(3584, 18944, 28, 28, 4, 152064, False),
    "Qwen2.5-14B-Instruct": _qwen(5120, 13824, 48, 40, 8, 152064, False),
}
ENCODERS = {"SenseVoiceSmall": sensevoice_conf(512, 50, 20, 4, 2048)}
# From the config.json files that OpenAI publishes.
WHISPERS = {
    "whisper-tiny": whisper_conf(384, 4, 6),
    "whisper-base": whisper_conf(512, 6, 8),
    "whisper-small": whisper_conf(768, 12, 12),
    "whisper-medium": whisper_conf(1024, 24, 16),
    "whisper-large-v3": whisper_conf(1280, 32, 20, n_mels=128),
}


def speakerlm_config(cfg: ModelConfig) -> tuple[dict[str, Any], list[str]]:
    """Arguments of SpeakerLMConfig, and where each shape was taken from.

    Raises:
        ModelError: a checkpoint is neither a folder nor of a known shape.
    """
    encoder_class, encoder, from_encoder = _encoder(cfg)
    llm, from_llm = _llm(cfg.llm.checkpoint)
    if cfg.encoder.dropout is not None:
        encoder = {**encoder, **dict.fromkeys(dropout_names(encoder_class), cfg.encoder.dropout)}
    width = feature_width(encoder_class)
    arguments = {
        "encoder_class": encoder_class,
        "encoder_conf": encoder,
        "feature_shift": [0.0] * width,
        "feature_scale": [1.0] * width,
        "projector": asdict(cfg.projector),
        "llm": llm,
        "lora": asdict(cfg.lora),
        "speaker_dim": cfg.speaker_dim,
        "extractor": cfg.extractor,
        "activation_checkpointing": cfg.activation_checkpointing,
    }
    return arguments, [f"encoder: {from_encoder}", f"LLM: {from_llm}"]


def _encoder(cfg: ModelConfig) -> tuple[str, dict[str, Any], str]:
    where, whisper = cfg.encoder.checkpoint, cfg.encoder.type == "whisper"
    if where is None:
        return (
            WHISPER if whisper else cfg.encoder.class_name,
            dict(cfg.encoder.config),
            "the recipe's model.encoder.config",
        )
    if Path(where).is_dir():
        read: Any = read_whisper_folder if whisper else read_sensevoice_folder
        found = read(Path(where))
        return found.class_name, dict(found.encoder_conf), f"{where}/config.{'json' if whisper else 'yaml'}"
    name, known = where.rsplit("/", 1)[-1], WHISPERS if whisper else ENCODERS
    if name in known:
        class_name = WHISPER if whisper else "SenseVoiceEncoderSmall"
        return class_name, dict(known[name]), f"known shape of {name}; no such folder here"
    raise ModelError(f"{where}: no such folder, and its shape is not known; known are {', '.join(known)}")


def _llm(where: str) -> tuple[dict[str, Any], str]:
    path = Path(where) / "config.json"
    if path.is_file():
        return json.loads(path.read_text(encoding="utf-8")), str(path)
    name = where.rsplit("/", 1)[-1]
    if name in LLMS:
        return dict(LLMS[name]), f"known shape of {name}; no such folder here"
    raise ModelError(f"{where}: no config.json there, and its shape is not known; known are {', '.join(LLMS)}")


def empty_model(cfg: ModelConfig, dtype: str) -> tuple[Any, list[str]]:
    """The model without weights, on the meta device, and where its shape is from."""
    import torch

    from pipeline.model.configuration_speakerlm import SpeakerLMConfig
    from pipeline.model.modeling_speakerlm import SpeakerLMForConditionalGeneration

    arguments, sources = speakerlm_config(cfg)
    with torch.device("meta"):
        model: Any = SpeakerLMForConditionalGeneration(SpeakerLMConfig(**arguments))
    return model.to(getattr(torch, dtype)), sources
