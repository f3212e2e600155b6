"""Build SpeakerLM from public checkpoints, or from a finished run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from pipeline.model.causal_lm import load_llm
from pipeline.model.configuration_speakerlm import SpeakerLMConfig
from pipeline.model.modeling_speakerlm import SpeakerLMForConditionalGeneration
from pipeline.model.own_weights import load_own_weights
from pipeline.model.sensevoice_folder import (
    SENSEVOICE_FILES,
    SenseVoiceCheckpoint,
    fingerprint_weights,
    read_sensevoice_folder,
    resolve_checkpoint,
)
from pipeline.model.speech_encoder import build_encoder, dropout_names, feature_width
from pipeline.model.whisper_encoder import WHISPER
from pipeline.model.whisper_folder import WHISPER_FILES, WhisperCheckpoint, read_whisper_folder
from pipeline.prompts import PromptTokenizer
from pipeline.recipe.load import load_recipe
from pipeline.recipe.schema import ModelConfig, Recipe
from pipeline.stages import Stage, check_speech, module_of

if TYPE_CHECKING:
    from transformers import PretrainedConfig


def load_tokenizer(cfg: ModelConfig) -> PromptTokenizer:
    """The LLM's tokenizer."""
    return PromptTokenizer.from_folder(resolve_checkpoint(cfg.llm.checkpoint, cfg.llm.hub))


def build_model(
    cfg: ModelConfig,
    *,
    ds_config: Mapping[str, Any] | None = None,
    dtype: torch.dtype = torch.float32,
    seed: int = 1,
) -> SpeakerLMForConditionalGeneration:
    """SpeakerLM with the weights of its public checkpoints; projectors and LoRA are a function of ``seed``.

    Args:
        cfg: the recipe's model.
        ds_config: DeepSpeed's configuration, without any "auto". Where it says ZeRO-3 the LLM is loaded in partitions
            (torch.distributed must be up); the rest is whole until ``deepspeed.initialize`` partitions it.
        dtype: of all weights.
        seed: for what no checkpoint holds.

    Raises:
        ModelError: a checkpoint is missing, damaged or of another architecture.
    """
    llm_folder = resolve_checkpoint(cfg.llm.checkpoint, cfg.llm.hub)
    llm = load_llm(llm_folder, ds_config=ds_config, dtype=dtype)
    source = _encoder_source(cfg)
    config = speakerlm_config(cfg, llm.config, source)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        encoder: Any = build_encoder(config)
        if source:
            encoder.load_checkpoint(source)
        model = SpeakerLMForConditionalGeneration(config, llm=llm, encoder=encoder)
        if cfg.speaker_init_std is not None:
            torch.nn.init.normal_(model.speaker_projector.weight, std=cfg.speaker_init_std)
    for name, parameter in model.named_parameters():
        if module_of(name) != "llm":
            parameter.data = parameter.data.to(dtype)
    model.bases = base_hashes(llm_folder)
    return model


def base_hashes(llm_folder: Path) -> dict[str, str]:
    """What tells the LLM that own weights were trained on from any other."""
    return {"llm": fingerprint_weights(llm_folder), "tokenizer": PromptTokenizer.from_folder(llm_folder).hash}


def _encoder_source(cfg: ModelConfig) -> SenseVoiceCheckpoint | WhisperCheckpoint | None:
    """The encoder's checkpoint folder, where the recipe names one."""
    if not cfg.encoder.checkpoint:
        return None
    if cfg.encoder.type == "whisper":
        return read_whisper_folder(resolve_checkpoint(cfg.encoder.checkpoint, cfg.encoder.hub, WHISPER_FILES))
    return read_sensevoice_folder(resolve_checkpoint(cfg.encoder.checkpoint, cfg.encoder.hub, SENSEVOICE_FILES))


def speakerlm_config(
    cfg: ModelConfig, llm: PretrainedConfig, source: SenseVoiceCheckpoint | WhisperCheckpoint | None = None
) -> SpeakerLMConfig:
    """The model's configuration, from a recipe and what its checkpoints say of themselves.

    Args:
        llm: the LLM's configuration.
        source: the encoder's checkpoint; None reads it where the recipe names one.
    """
    source = source or _encoder_source(cfg)
    new = WHISPER if cfg.encoder.type == "whisper" else cfg.encoder.class_name
    class_name = source.class_name if source else new
    conf = dict(source.encoder_conf if source else cfg.encoder.config)
    if cfg.encoder.dropout is not None:
        conf.update(dict.fromkeys(dropout_names(class_name), cfg.encoder.dropout))
    return SpeakerLMConfig(
        encoder_class=class_name,
        encoder_conf=conf,
        frontend_conf=source.frontend_conf if source else {},
        feature_shift=source.shift if source else [0.0] * feature_width(class_name),
        feature_scale=source.scale if source else [1.0] * feature_width(class_name),
        projector=asdict(cfg.projector),
        llm=llm.to_dict(),
        lora=asdict(cfg.lora),
        speaker_dim=cfg.speaker_dim,
        extractor=cfg.extractor,
        activation_checkpointing=cfg.activation_checkpointing,
    )


def set_trainable(model: SpeakerLMForConditionalGeneration, stage: Stage) -> list[str]:
    """Freeze all but the stage's modules and set train mode; returns the names of trainable parameters."""
    names = model.trainable(stage.trains)
    model.train()
    return names


def load_finished_run(
    folder: Path | str, dtype: torch.dtype = torch.float32
) -> tuple[SpeakerLMForConditionalGeneration, PromptTokenizer, Recipe]:
    """A finished run's model in eval mode, its tokenizer and its recipe, without DeepSpeed.

    Raises:
        ModelError: the run has no weights or its base has changed.
        ConfigError: its config.yaml cannot be read.
    """
    folder = Path(folder)
    recipe = load_recipe(folder / "config.yaml")
    check_speech(recipe.stage, str(folder))
    model = build_model(recipe.model, dtype=dtype, seed=recipe.seed)
    load_own_weights(model, folder)
    return model.eval(), load_tokenizer(recipe.model), recipe
