"""Everything that SpeakerLM's shape depends on, as a Hugging Face configuration."""

from __future__ import annotations

from typing import Any

from transformers import PreTrainedConfig

from pipeline.stages import Checkpointing


class SpeakerLMConfig(PreTrainedConfig):
    """Encoder, projectors, LLM and LoRA. Self-contained: no other file is needed to build the model."""

    model_type = "speakerlm"
    encoder_type = ""
    frame_multiple = 1
    context = False

    def __init__(
        self,
        encoder_class: str = "SenseVoiceEncoderSmall",
        encoder_conf: dict[str, Any] | None = None,
        frontend_conf: dict[str, Any] | None = None,
        feature_shift: list[float] | None = None,
        feature_scale: list[float] | None = None,
        projector: dict[str, Any] | None = None,
        llm: dict[str, Any] | None = None,
        lora: dict[str, Any] | None = None,
        speaker_dim: int = 192,
        extractor: str = "",
        registration: bool = True,
        activation_checkpointing: bool | dict[str, Any] = False,
        encoder_type: str = "",
        frame_multiple: int = 1,
        context: bool = False,
        **kwargs: Any,
    ) -> None:
        """Take the parts as plain dicts.

        Args:
            encoder_class: FunASR's name of the encoder, or WhisperEncoder.
            encoder_conf: that class's arguments.
            frontend_conf: ``frontend_conf`` of FunASR's ``config.yaml``.
            feature_shift: added to the features (``am.mvn``).
            feature_scale: then multiplied.
            projector: layers, heads, ffn, dropout, stride.
            llm: configuration of the LLM as ``to_dict()`` gives it.
            lora: r, alpha, dropout, targets.
            speaker_dim: width of speaker vectors.
            extractor: id of the extractor that made them.
            registration: it was trained to read registered names; False after stage 1.
            activation_checkpointing: fields of :class:`Checkpointing`, or true and false for all and none.
            encoder_type: name of a plug-in of the group ``speakerlm.encoders``; empty for FunASR's and Whisper's.
            frame_multiple: rows of encoder frames are padded to a multiple of it.
            context: it was trained with a line of context in the prompt.
            kwargs: what every PreTrainedConfig takes.
        """
        self.encoder_class = encoder_class
        self.encoder_conf = encoder_conf or {}
        self.frontend_conf = frontend_conf or {}
        self.feature_shift = feature_shift or []
        self.feature_scale = feature_scale or []
        self.projector = projector or {}
        self.llm = llm or {}
        self.lora = lora or {}
        self.speaker_dim = speaker_dim
        self.extractor = extractor
        self.registration = registration
        self.activation_checkpointing = activation_checkpointing
        Checkpointing.of(activation_checkpointing)  # an unknown field is an error
        if encoder_type:  # config.json of the built-in encoders has no such key
            self.encoder_type = encoder_type
        if frame_multiple != 1:
            self.frame_multiple = frame_multiple
        if context:
            self.context = True
        super().__init__(**kwargs)
