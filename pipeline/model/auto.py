"""SpeakerLM under transformers' Auto classes: in this process, and in an exported folder by ``auto_map``."""

from __future__ import annotations

CONFIG = "configuration_speakerlm.SpeakerLMConfig"
MODEL = "exported_speakerlm.SpeakerLMForConditionalGeneration"
PROCESSOR = "exported_speakerlm.SpeakerLMProcessor"
# Tasks of transformers.pipeline, as config.json states them.
PIPELINES = {"speaker-attributed-transcription": {"impl": "pipeline_speakerlm.SpeakerLMPipeline", "pt": ["AutoModel"]}}
# Module and class, as an exported folder names them. The model is reached under both of its names.
AUTO_MAP = {"AutoConfig": CONFIG, "AutoModel": MODEL, "AutoModelForSpeechSeq2Seq": MODEL, "AutoProcessor": PROCESSOR}


def register_auto_classes() -> None:
    """Let AutoConfig, AutoModel, AutoModelForSpeechSeq2Seq and AutoProcessor know ``speakerlm``; again is harmless."""
    from transformers import AutoConfig, AutoModel, AutoModelForSpeechSeq2Seq, AutoProcessor

    from pipeline.model.configuration_speakerlm import SpeakerLMConfig
    from pipeline.model.modeling_speakerlm import SpeakerLMForConditionalGeneration
    from pipeline.model.processing_speakerlm import SpeakerLMProcessor

    AutoConfig.register(SpeakerLMConfig.model_type, SpeakerLMConfig, exist_ok=True)
    for auto in (AutoModel, AutoModelForSpeechSeq2Seq):
        auto.register(SpeakerLMConfig, SpeakerLMForConditionalGeneration, exist_ok=True)
    AutoProcessor.register(SpeakerLMConfig, SpeakerLMProcessor, exist_ok=True)
