"""Build SpeakerLM from public checkpoints, or from a finished run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from pipeline.model.build_encoder import BUILT_IN, build_encoder, compile_blocks
from pipeline.model.causal_lm import load_llm
from pipeline.model.configuration_speakerlm import SpeakerLMConfig
from pipeline.model.encoder_interface import EncoderCheckpoint, EncoderShape, find_encoder, shape_without_checkpoint
from pipeline.model.exported import ExportedEncoder, is_exported, tokenizer_of
from pipeline.model.modeling_speakerlm import SpeakerLMForConditionalGeneration
from pipeline.model.own_weights import base_hashes, load_own_weights
from pipeline.model.thinker_tokens import ThinkerTokenizer
from pipeline.prompts import PromptTokenizer
from pipeline.recipe.load import load_recipe
from pipeline.recipe.schema import ModelConfig, Recipe
from pipeline.stages import Base, Stage, check_speech, module_of, stage_of
from shards.weights.hubs import resolve_checkpoint


def load_tokenizer(cfg: ModelConfig) -> PromptTokenizer:
    """The LLM's tokenizer, with the prompts of the recipe's base."""
    folder = resolve_checkpoint(cfg.llm.checkpoint, cfg.llm.hub)
    return tokenizer_of(folder) if cfg.base == Base.SPEAKERLM else ThinkerTokenizer.of_base(folder, Base(cfg.base))


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
    config = speakerlm_config(cfg, llm.config.to_dict(), source)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        encoder: Any = build_encoder(config)
        if isinstance(source, ExportedEncoder):
            source.load_into(encoder)
        elif source:
            encoder.load_checkpoint(source)
        model = SpeakerLMForConditionalGeneration(config, llm=llm, encoder=encoder)
        if cfg.speaker_init_std is not None:
            torch.nn.init.normal_(model.speaker_projector.weight, std=cfg.speaker_init_std)
    for name, parameter in model.named_parameters():
        if module_of(name) != "llm":
            parameter.data = parameter.data.to(dtype)
    if cfg.encoder.compile:
        compile_blocks(model.encoder)
    model.bases = base_hashes(llm_folder)
    return model


def _encoder_source(cfg: ModelConfig) -> EncoderCheckpoint | None:
    """The encoder's checkpoint; None if the recipe names none."""
    if not cfg.encoder.checkpoint:
        return None
    plugin, name, hub = find_encoder(cfg.encoder.type), cfg.encoder.checkpoint, cfg.encoder.hub
    folder = resolve_checkpoint(name, hub, (*plugin.FILES, "config.json"))
    if is_exported(folder):
        return ExportedEncoder.of(resolve_checkpoint(name, hub))
    return plugin.read_checkpoint(folder)


def speakerlm_config(
    cfg: ModelConfig, llm: dict[str, Any], encoder: EncoderCheckpoint | EncoderShape | None = None
) -> SpeakerLMConfig:
    """The model's configuration, from a recipe and the configurations of its checkpoints.

    Args:
        llm: the LLM's configuration, as ``to_dict()`` gives it.
        encoder: the encoder's checkpoint or shape; None reads the checkpoint that the recipe names.
    """
    plugin = find_encoder(cfg.encoder.type)
    shape = encoder or encoder_shape(cfg)
    conf = dict(shape.encoder_conf)
    if cfg.encoder.dropout is not None:
        conf.update(dict.fromkeys(plugin.DROPOUTS, cfg.encoder.dropout))
    return SpeakerLMConfig(
        encoder_type="" if cfg.encoder.type in BUILT_IN else cfg.encoder.type,
        encoder_class=shape.class_name,
        encoder_conf=conf,
        frontend_conf=shape.frontend_conf,
        feature_shift=shape.shift,
        feature_scale=shape.scale,
        projector=asdict(cfg.projector),
        llm=llm,
        lora=asdict(cfg.lora),
        speaker_dim=cfg.speaker_dim,
        extractor=cfg.extractor,
        activation_checkpointing=cfg.activation_checkpointing.plain(),
        frame_multiple=cfg.encoder.frame_multiple,
    )


def encoder_shape(cfg: ModelConfig) -> EncoderCheckpoint | EncoderShape:
    """The encoder's shape, by its checkpoint or by the recipe's own class and arguments. Reads no weights.

    Raises:
        ModelError: the checkpoint is missing, or its configuration is damaged.
    """
    return _encoder_source(cfg) or new_encoder_shape(cfg)


def new_encoder_shape(cfg: ModelConfig) -> EncoderShape:
    """The shape of an encoder that starts at random: class and arguments of the recipe."""
    plugin = find_encoder(cfg.encoder.type)
    return shape_without_checkpoint(plugin, plugin.CLASS_NAME or cfg.encoder.class_name, cfg.encoder.config)


def set_trainable(model: Any, stage: Stage) -> list[str]:
    """Freeze all but the stage's modules and set train mode; returns the names of trainable parameters."""
    names: list[str] = model.trainable(stage.trains)
    model.train()
    return names


def load_finished_run(folder: Path | str, dtype: torch.dtype = torch.float32) -> tuple[Any, PromptTokenizer, Recipe]:
    """A finished run's model in eval mode, its tokenizer and its recipe, without DeepSpeed.

    Raises:
        ModelError: the run has no weights or its base has changed.
        ConfigError: its config.yaml cannot be read.
    """
    folder = Path(folder)
    recipe = load_recipe(folder / "config.yaml")
    check_speech(recipe.stage, str(folder))
    stage = stage_of(recipe.stage, recipe.model.base)
    model = stage.load(stage.model)(recipe.model, dtype=dtype, seed=recipe.seed)
    load_own_weights(model, folder)
    return model.eval(), load_tokenizer(recipe.model), recipe
