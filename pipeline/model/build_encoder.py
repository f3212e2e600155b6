"""Build the speech encoder and the frontend that a configuration names."""

from __future__ import annotations

from typing import Any

import torch

from pipeline.model.configuration_speakerlm import SpeakerLMConfig
from pipeline.model.encoder_interface import find_encoder
from pipeline.model.sensevoice_encoder import build_encoder as build_sensevoice
from pipeline.model.sensevoice_encoder import build_frontend as build_sensevoice_frontend
from pipeline.model.whisper_encoder import WHISPER
from pipeline.model.whisper_encoder import build_encoder as build_whisper
from pipeline.model.whisper_encoder import build_frontend as build_whisper_frontend
from shards.errors import ModelError

# Known without a look-up, so that an exported folder carries their code. A configuration names them by its class.
BUILT_IN = {
    "sensevoice": (build_sensevoice_frontend, build_sensevoice),
    "whisper": (build_whisper_frontend, build_whisper),
}


def build_frontend(config: SpeakerLMConfig) -> Any:
    """Build what makes the encoder's features.

    Raises:
        ConfigError: no encoder of the configured type is known.
        ModelError: a configuration that the frontend does not support.
    """
    name = encoder_type(config)
    return BUILT_IN[name][0](config) if name in BUILT_IN else find_encoder(name).build_frontend(config)


def build_encoder(config: SpeakerLMConfig) -> Any:
    """Build the encoder with random weights.

    Raises:
        ConfigError: no encoder of the configured type is known.
        ModelError: no such class, or arguments that it refuses.
    """
    name = encoder_type(config)
    return BUILT_IN[name][1](config) if name in BUILT_IN else find_encoder(name).build_encoder(config)


def compile_blocks(encoder: Any, backend: str = "inductor") -> None:
    """Compile an encoder's blocks in place: once for all of them, for any number of frames.

    Their ``forward`` alone, so that hooks and recomputation stay outside. Compilation happens at the first calls.

    Raises:
        ModelError: the encoder does not list its blocks.
    """
    if not hasattr(encoder, "repeated"):
        raise ModelError(
            f"{type(encoder).__name__} has no method repeated() that lists its blocks: set model.encoder.compile: false"
        )
    for block in encoder.repeated():
        vars(block)["forward"] = torch.compile(block.forward, backend=backend, dynamic=True)


def encoder_type(config: SpeakerLMConfig) -> str:
    """Name of the encoder's module; configurations of the built-in ones do not record it."""
    return config.encoder_type or ("whisper" if config.encoder_class == WHISPER else "sensevoice")
