"""A system that hears and writes at once, run here: model, processor and chat template of a folder of transformers.

All are asked in one way: a user's turn with the audio and, unless the template asks by itself, a prompt; greedily.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from pipeline.baselines.audio_endpoint import Reply
from pipeline.baselines.systems import System
from shards.errors import ConfigError, ModelError
from shards.sample import SAMPLE_RATE


class TransformersSystem:
    """A folder, or an id on Hugging Face."""

    references: Mapping[str, bytes] = {}  # none of these systems takes known speakers

    def __init__(self, source: str, system: System, device: str = "cpu", most_tokens: int = 8192) -> None:
        """Load model and processor.

        Raises:
            ConfigError: the system is not one of transformers'.
            ModelError: it cannot be loaded.
        """
        if not system.in_transformers:
            raise ConfigError(f"--transformers: no class of transformers is known for {system.model}; use --endpoint")
        self.model, self.system, self.most_tokens, self._device = source, system, most_tokens, device
        import torch
        from transformers import AutoConfig, AutoModelForMultimodalLM, AutoProcessor

        try:
            config: Any = AutoConfig.from_pretrained(source)
            if hasattr(config, "enable_audio_output"):
                config.enable_audio_output = False  # of Omni models only the part that writes is loaded
            self._processor: Any = AutoProcessor.from_pretrained(source)
            dtype = torch.bfloat16 if device.startswith("cuda") else torch.float32
            loaded: Any = AutoModelForMultimodalLM.from_pretrained(source, config=config, dtype=dtype)
        except (OSError, ValueError, KeyError, ImportError, RuntimeError) as error:
            reason = " ".join(str(error).split())[:300]
            raise ModelError(
                f"{source}: transformers cannot load it ({type(error).__name__}: {reason}); give a folder or an id on "
                "Hugging Face, such as " + system.model
            ) from error
        self._model = getattr(loaded, "thinker", loaded).to(device).eval()

    def hear(self, wave: np.ndarray, prompt: str) -> Reply:
        """(n,) float32 at 16 kHz and a prompt → what the system wrote."""
        import torch

        rate = int(self._processor.feature_extractor.sampling_rate)
        content: list[dict[str, Any]] = [{"type": "audio", "audio": _resampled(wave, rate)}]
        if prompt:
            content.append({"type": "text", "text": prompt})
        asked = self._processor.apply_chat_template(
            [{"role": "user", "content": content}], tokenize=True, add_generation_prompt=True, return_dict=True,
            processor_kwargs={"return_tensors": "pt", "sampling_rate": rate},
        ).to(self._device)  # fmt: skip
        for name, value in asked.items():
            if torch.is_floating_point(value):
                asked[name] = value.to(self._model.dtype)
        with torch.inference_mode():
            ids = self._model.generate(
                **asked, max_new_tokens=self.most_tokens, do_sample=False, temperature=None, top_p=None, top_k=None
            )
        before = asked["input_ids"].shape[1]
        written = ids[0, before:].tolist()
        usage = {"prompt_tokens": before, "completion_tokens": len(written)}
        text = self._processor.tokenizer.decode(written, skip_special_tokens=True)
        ends = self._model.generation_config.eos_token_id
        whole = len(written) < self.most_tokens or written[-1] in (ends if isinstance(ends, list) else [ends])
        return Reply(text.strip(), "end" if whole else "cut", usage)


def _resampled(wave: np.ndarray, rate: int) -> np.ndarray:
    if rate == SAMPLE_RATE:
        return wave.astype(np.float32)
    from scipy.signal import resample_poly

    common = math.gcd(rate, SAMPLE_RATE)
    return np.asarray(resample_poly(wave, rate // common, SAMPLE_RATE // common), np.float32)
