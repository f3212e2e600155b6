"""The model's shape from a recipe, without weights: by the checkpoints' configuration files, else by known shapes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from pipeline.model.build import new_encoder_shape, speakerlm_config
from pipeline.model.encoder_interface import EncoderCheckpoint, EncoderShape, find_encoder, shape_without_checkpoint
from pipeline.model.exported import ExportedEncoder, exported_config, is_exported
from pipeline.recipe.schema import ModelConfig
from pipeline.stages import Base
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


# From the config.json files that Qwen publishes.
LLMS = {
    "Qwen2.5-0.5B-Instruct": _qwen(896, 4864, 24, 14, 2, 151936, True),
    "Qwen2.5-1.5B-Instruct": _qwen(1536, 8960, 28, 12, 2, 151936, True),
    "Qwen2.5-3B-Instruct": _qwen(2048, 11008, 36, 16, 2, 151936, True),
    "Qwen2.5-7B-Instruct": _qwen(3584, 18944, 28, 28, 4, 152064, False),
    "Qwen2.5-14B-Instruct": _qwen(5120, 13824, 48, 40, 8, 152064, False),
}


def _encoder(cfg: ModelConfig) -> tuple[EncoderCheckpoint | EncoderShape, str]:
    where = cfg.encoder.checkpoint
    if where is None:
        return new_encoder_shape(cfg), "the recipe's model.encoder.config"
    plugin = find_encoder(cfg.encoder.type)
    if is_exported(Path(where)):
        return ExportedEncoder.of(Path(where)), f"{where}/config.json"
    if Path(where).is_dir():
        return plugin.read_checkpoint(Path(where)), f"{where}/{plugin.FILES[0]}"
    name = where.rsplit("/", 1)[-1]
    if name in plugin.SHAPES:
        return shape_without_checkpoint(plugin, *plugin.SHAPES[name]), f"known shape of {name}; no such folder here"
    raise ModelError(f"{where}: no such folder, and its shape is not known; known are {', '.join(plugin.SHAPES)}")


def _llm(where: str) -> tuple[dict[str, Any], str]:
    path = Path(where) / "config.json"
    if is_exported(Path(where)):
        return dict(exported_config(Path(where))["llm"]), str(path)
    if path.is_file():
        return json.loads(path.read_text(encoding="utf-8")), str(path)
    name = where.rsplit("/", 1)[-1]
    if name in LLMS:
        return dict(LLMS[name]), f"known shape of {name}; no such folder here"
    raise ModelError(f"{where}: no config.json there, and its shape is not known; known are {', '.join(LLMS)}")


# The thinkers' sizes in the same files; what is omitted is the default of transformers' configuration.
THINKERS: dict[Base, dict[str, dict[str, Any]]] = {
    Base.QWEN2_5_OMNI: {
        "Qwen2.5-Omni-7B": {"text_config": {}, "audio_config": {}},
    },
    Base.QWEN3_OMNI: {
        "Qwen3-Omni-30B-A3B-Instruct": {
            "text_config": {
                "num_hidden_layers": 48,
                "num_attention_heads": 32,
                "head_dim": 128,
                "vocab_size": 152064,
                "max_position_embeddings": 65536,
            },
            "audio_config": {"output_dim": 2048},
        },
    },
}


def _thinker(cfg: ModelConfig) -> tuple[Any, str]:
    """A thinker's configuration."""
    from transformers import AutoConfig

    from pipeline.model.thinker import thinker_class

    base, where = Base(cfg.base), cfg.llm.checkpoint
    if (Path(where) / "config.json").is_file():
        thinker_class(base, Path(where))  # refuses another model's folder
        found = AutoConfig.from_pretrained(where)
        return getattr(found, "thinker_config", found), f"{where}/config.json"
    known, name = THINKERS[base], where.rsplit("/", 1)[-1]
    if name in known:
        return thinker_class(base).config_class(**known[name]), f"known shape of {name}; no such folder here"
    raise ModelError(f"{where}: no config.json there, and its shape is not known; known are {', '.join(known)}")


def empty_model(cfg: ModelConfig, dtype: str) -> tuple[Any, list[str]]:
    """The model without weights, on the meta device, and where its shape is from.

    Raises:
        ModelError: a checkpoint is neither a folder nor of a known shape; torchao is asked for and missing.
    """
    import torch

    if cfg.base != Base.SPEAKERLM:
        from pipeline.model.packed_attention import register
        from pipeline.model.thinker import around, thinker_class

        config, source = _thinker(cfg)
        with torch.device("meta"):
            empty: Any = thinker_class(Base(cfg.base))._from_config(config, attn_implementation=register())
            thinker: Any = around(empty, cfg)
        return thinker.to(getattr(torch, dtype)), [f"thinker: {source}"]
    from pipeline.model.float8 import use_float8
    from pipeline.model.modeling_speakerlm import SpeakerLMForConditionalGeneration

    encoder, from_encoder = _encoder(cfg)
    llm, from_llm = _llm(cfg.llm.checkpoint)
    with torch.device("meta"):
        model: Any = SpeakerLMForConditionalGeneration(speakerlm_config(cfg, llm, encoder))
    model.to(getattr(torch, dtype))
    if cfg.llm.float8:
        use_float8(model.llm, torch.device("meta"))
    return model, [f"encoder: {from_encoder}", f"LLM: {from_llm}"]
