"""The speech encoder and the frontend that a configuration names: FunASR's or Whisper's."""

from __future__ import annotations

from pipeline.model.configuration_speakerlm import SpeakerLMConfig
from pipeline.model.sensevoice_encoder import FunasrEncoder
from pipeline.model.sensevoice_frontend import Frontend
from pipeline.model.whisper_encoder import DROPOUTS, WHISPER, WhisperSpeechEncoder
from pipeline.model.whisper_frontend import WhisperFrontend

SpeechEncoder = FunasrEncoder | WhisperSpeechEncoder
SpeechFrontend = Frontend | WhisperFrontend


def build_frontend(config: SpeakerLMConfig) -> SpeechFrontend:
    """What makes the encoder's features.

    Raises:
        ModelError: a configuration that the frontend does not support.
    """
    if config.encoder_class == WHISPER:
        return WhisperFrontend(config.encoder_conf.get("num_mel_bins", 80))
    return Frontend(config.feature_shift, config.feature_scale, config.frontend_conf)


def build_encoder(config: SpeakerLMConfig) -> SpeechEncoder:
    """The encoder with random weights.

    Raises:
        ModelError: no such class, or arguments that it refuses.
    """
    if config.encoder_class == WHISPER:
        return WhisperSpeechEncoder(config.encoder_conf)
    return FunasrEncoder(config.encoder_class, config.encoder_conf, len(config.feature_shift))


def dropout_names(encoder_class: str) -> tuple[str, ...]:
    """What the class calls its dropout rates."""
    return (
        DROPOUTS if encoder_class == WHISPER else ("dropout_rate", "positional_dropout_rate", "attention_dropout_rate")
    )


def feature_width(encoder_class: str) -> int:
    """Values of the shift and scale that a configuration needs where no checkpoint brings them."""
    return 0 if encoder_class == WHISPER else 560
