"""Qwen3-ASR of transformers, over stretches of speech, with word times from Qwen3-ForcedAligner

``SOURCE`` is a folder or an id on Hugging Face in the layout of transformers (``…-hf``); after a comma another aligner
can be named: ``qwen3-asr@FOLDER,ALIGNER``. Qwen3-ASR itself writes text alone, and its authors time it with the
aligner. With the aligner ``none``, and in languages that the aligner does not know, the words of a stretch are spread
over it in proportion to their letters; the recogniser's name and a warning say so.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import numpy as np

from pipeline.baselines.interfaces import Word, unloadable
from pipeline.baselines.word_times import placed, spread
from pipeline.transcribe.vad import WINDOW, WINDOW_S, Vad, speech
from shards.sample import SAMPLE_RATE

logger = logging.getLogger(__name__)

QWEN3_ASR = "Qwen/Qwen3-ASR-1.7B-hf"
ALIGNER = "Qwen/Qwen3-ForcedAligner-0.6B-hf"
NO_ALIGNER = "none"
LONGEST_S = 30.0  # of a stretch: the aligner takes up to 300 s, but loops and gaps stay within a stretch
PAUSE_S = 0.8  # up to which stretches are joined
MOST_TOKENS = 512  # of a stretch; the default of Qwen's own library

Span = tuple[float, float]


def stretches(wave: np.ndarray, vad: Vad) -> list[Span]:
    """(n,) at 16 kHz → stretches of speech (start, end) in seconds, each of at most 30 s.

    Stretches with a short pause between them are joined; a longer one is cut where speech is least probable.
    """
    chances = vad.probabilities(np.pad(wave, (0, -len(wave) % WINDOW)))
    found: list[Span] = []
    for start, end in speech(chances):
        if found and start - found[-1][1] <= PAUSE_S and end - found[-1][0] <= LONGEST_S:
            found[-1] = (found[-1][0], end)
        else:
            found += _cut(start, end, chances)
    return found


def _cut(start: float, end: float, chances: np.ndarray) -> list[Span]:
    """Cut a stretch of more than 30 s at a pause of its last ten seconds, until none is longer."""
    found: list[Span] = []
    while end - start > LONGEST_S:
        first, last = (int((start + part * LONGEST_S) / WINDOW_S) for part in (2 / 3, 1))
        middle = (first + int(np.argmin(chances[first:last]))) * WINDOW_S
        found.append((start, middle))
        start = middle
    return [*found, (start, end)]


class Qwen3Asr:
    """Recogniser and aligner."""

    def __init__(self, source: str, vad: Callable[[], Vad], device: str = "cpu") -> None:
        """Load both.

        Args:
            source: ``ASR`` or ``ASR,ALIGNER``.
            vad: makes a detector in its initial state.

        Raises:
            ConfigError: weights that cannot be had, or of another model.
        """
        asr, _, aligner = source.partition(",")
        aligner = aligner or ALIGNER
        times = "times in proportion" if aligner == NO_ALIGNER else f"times by {aligner}"
        self.id = f"qwen3-asr ({asr}, {times})"
        from transformers import Qwen3ASRForConditionalGeneration, Qwen3ASRForTokenClassification

        self._vad, self._warned = vad, set[str | None]()
        self._processor, self._model = self._load(Qwen3ASRForConditionalGeneration, asr, device)
        self._align: tuple[Any, Any] | None = None
        if aligner != NO_ALIGNER:
            self._align = self._load(Qwen3ASRForTokenClassification, aligner, device)

    def _load(self, kind: Any, source: str, device: str) -> tuple[Any, Any]:
        import torch
        from transformers import Qwen3ASRProcessor

        dtype = torch.bfloat16 if device.startswith("cuda") else torch.float32
        advice = f"Give a folder, or an id on Hugging Face such as {QWEN3_ASR} and {ALIGNER}; names without -hf are in "
        try:
            processor = Qwen3ASRProcessor.from_pretrained(source)
            model, found = kind.from_pretrained(source, dtype=dtype, output_loading_info=True)
            if wrong := [*found["missing_keys"], *found["unexpected_keys"], *found["mismatched_keys"]]:
                raise ValueError(f"weights that do not fit: {sorted(map(str, wrong))[:3]}")
        except Exception as error:  # hubs raise their own errors, and so do files of another layout
            raise unloadable(self.id, error, advice + "the layout of another library.") from error
        return processor, model.to(device).eval()

    def words(self, wave: np.ndarray, language: str | None) -> list[Word]:
        """See :class:`~pipeline.baselines.interfaces.Recogniser`."""
        wave = wave.astype(np.float32)
        found: list[Word] = []
        for start, end in stretches(wave, self._vad()):
            part = wave[round(start * SAMPLE_RATE) : round(end * SAMPLE_RATE)]
            text, spoken = self._heard(part, language)
            words = self._timed(part, f" {text}", spoken)  # the space parts it from the stretch before
            found += [Word(w.text, w.start + start, w.end + start) for w in words]
        return found

    def _heard(self, part: np.ndarray, language: str | None) -> tuple[str, str | None]:
        """Return text and the language's name."""
        import torch
        from transformers.models.qwen3_asr.processing_qwen3_asr import LANGUAGE_CODE_TO_NAME

        known = LANGUAGE_CODE_TO_NAME.get(language or "")
        asked = self._processor.apply_transcription_request(part, language=known)
        asked = asked.to(self._model.device, self._model.dtype)
        with torch.inference_mode():
            ids = self._model.generate(**asked, max_new_tokens=MOST_TOKENS, do_sample=False)
        heard = self._processor.decode(ids[:, asked["input_ids"].shape[1] :], return_format="parsed")[0]
        return heard["transcription"], known or heard["language"]

    def _timed(self, part: np.ndarray, text: str, language: str | None) -> list[Word]:
        """Return words with seconds from the stretch's beginning."""
        from transformers.models.qwen3_asr.processing_qwen3_asr import FORCED_ALIGNER_LANGUAGES

        everywhere = spread(text, 0.0, len(part) / SAMPLE_RATE)
        if self._align is None or not everywhere:
            return everywhere
        if language not in FORCED_ALIGNER_LANGUAGES:
            return self._in_proportion(everywhere, language, "the aligner does not know it")
        try:
            return placed(text, self._aligned(part, text, language)) or everywhere
        except ImportError as error:  # packages that cut Japanese and Korean into words
            return self._in_proportion(everywhere, language, " ".join(str(error).split()))

    def _in_proportion(self, words: list[Word], language: str | None, reason: str) -> list[Word]:
        if language not in self._warned:
            self._warned.add(language)
            logger.warning("%s: words of %s are spread over stretches of speech: %s", self.id, language, reason)
        return words

    def _aligned(self, part: np.ndarray, text: str, language: str) -> list[Word]:
        import torch

        assert self._align is not None
        processor, model = self._align
        asked, units = processor.prepare_forced_aligner_inputs(part, text, language)
        asked = asked.to(model.device, model.dtype)
        with torch.inference_mode():
            logits = model(**asked).logits
        marker = model.config.timestamp_token_id
        found = processor.decode_forced_alignment(logits, asked["input_ids"], units, marker)[0]
        longest = len(part) / SAMPLE_RATE
        return [Word(u["text"], min(u["start_time"], longest), min(u["end_time"], longest)) for u in found]
