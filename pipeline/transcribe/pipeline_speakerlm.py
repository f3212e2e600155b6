"""The task of ``transformers.pipeline`` that an exported folder registers."""

from __future__ import annotations

from typing import Any

import transformers

Base: Any = transformers.Pipeline  # without the types of its hooks, which are narrower than what they may do


class SpeakerLMPipeline(Base):
    """Audio → turns: ``[{"speaker": …, "text": …, "start": …, "end": …}, …]``, times estimated, in seconds.

    Keyword arguments are those of the model's ``transcribe``. It has its own batches: those of a pipeline are not used.
    """

    _load_processor = True
    _load_tokenizer = False
    _load_feature_extractor = False
    _load_image_processor = False
    _load_video_processor = False

    def _sanitize_parameters(self, **kwargs: Any) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
        return {}, kwargs, {}

    def preprocess(self, audio: Any) -> dict[str, Any]:
        """Take a file, or ``{"array": samples, "sampling_rate": rate}`` as data sets hold audio."""
        if isinstance(audio, dict):
            return {"audio": audio.get("array", audio.get("raw")), "sampling_rate": audio.get("sampling_rate")}
        return {"audio": audio}

    def _forward(self, inputs: dict[str, Any], **kwargs: Any) -> Any:
        return self.model.transcribe(**inputs, processor=self.processor, **kwargs)

    def postprocess(self, transcript: Any) -> list[dict[str, Any]]:
        """Return the turns as dicts."""
        return [{"speaker": t.speaker, "text": t.text, "start": t.start, "end": t.end} for t in transcript.turns]
