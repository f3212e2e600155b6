"""FunASR's recognisers: Paraformer and SenseVoice, behind its FSMN-VAD

``SOURCE`` is a folder or an id on ModelScope; after a comma another VAD can be named: ``paraformer@FOLDER,VAD_FOLDER``.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from pipeline.baselines.interfaces import Word, as_seconds, unloadable
from pipeline.baselines.word_times import cut, placed, spread
from shards.errors import ConfigError
from shards.sample import SAMPLE_RATE

logger = logging.getLogger(__name__)

PARAFORMER = "iic/speech_seaco_paraformer_large_asr_nat-zh-cn-16k-common-vocab8404-pytorch"  # FunASR's paraformer-zh
SENSEVOICE = "iic/SenseVoiceSmall"
SENSEVOICE_LANGUAGES = ("zh", "yue", "en", "ja", "ko")
FUNASR_VAD = "fsmn-vad"
SENSEVOICE_SEGMENT_MS = 30_000  # longest segment of the VAD that SenseVoice's authors give it
SHORTEST_S = 0.1
# What bears a time in FunASR's text: a Chinese character, or a run of anything else. Punctuation bears none.
_TIMED = re.compile(r"[\u3400-\u4dbf\u4e00-\u9fff\U00020000-\U0003ffff]|[^\W\u3400-\u4dbf\u4e00-\u9fff]+(?:'\w+)*")
_TAG = re.compile(r"<\|[^|]*\|>")


def load_funasr(name: str, source: str, device: str, **vad_settings: Any) -> Any:
    """FunASR's AutoModel with a VAD that cuts long audio.

    Raises:
        ConfigError: weights that cannot be had.
    """
    import torch
    from funasr import AutoModel

    model, _, vad = source.partition(",")
    vad = vad or FUNASR_VAD
    try:
        loaded: Any = AutoModel(
            model=model, vad_model=vad, vad_kwargs=vad_settings, device=device, disable_update=True, disable_pbar=True,
            ncpu=torch.get_num_threads(),  # else it sets 4 for the whole process
        )  # fmt: skip
    except Exception as error:  # hubs raise their own errors, those of requests, and asserts
        raise unloadable(name, error, f"Fetch {model} and {vad} from ModelScope, or give folders.") from error
    for part, network, settings in ((model, loaded.model, loaded.kwargs), (vad, loaded.vad_model, loaded.vad_kwargs)):
        if absent := absent_weights(network, settings.get("init_param")):
            logger.warning(
                "%s: %d of its weights are not in the checkpoint, or have another shape, and FunASR leaves them "
                "random: %s …", part, len(absent), ", ".join(absent[:3]),
            )  # fmt: skip
    return loaded


def absent_weights(network: Any, checkpoint: str | None) -> list[str]:
    """Names of weights that a checkpoint lacks or has in another shape, which FunASR skips."""
    import torch

    if checkpoint is None:
        return []
    stored: Any = torch.load(checkpoint, map_location="cpu", weights_only=True)
    for key in ("state_dict", "model_state_dict", "model"):
        stored = stored.get(key, stored)
    shapes = {k.removeprefix("module."): tuple(v.shape) for k, v in stored.items() if hasattr(v, "shape")}
    return [k for k, v in network.state_dict().items() if shapes.get(k.removeprefix("module.")) != tuple(v.shape)]


class Paraformer:
    """Paraformer-large, which times each character."""

    def __init__(self, source: str, device: str = "cpu") -> None:
        """Load it.

        Raises:
            ConfigError: weights that cannot be had.
        """
        self.id = f"paraformer ({source})"
        self._model = load_funasr(self.id, source, device)

    def words(self, wave: np.ndarray, language: str | None) -> list[Word]:
        """See :class:`~pipeline.baselines.interfaces.Recogniser`; the language is the model's."""
        if len(wave) < SHORTEST_S * SAMPLE_RATE:
            return []
        found = self._model.generate(input=wave, fs=SAMPLE_RATE, batch_size_s=300)
        return [w for result in found for w in paraformer_words(result)]


class SenseVoice:
    """SenseVoice Small, timed by aligning its text with its own CTC output; numbers as words, no punctuation."""

    def __init__(self, source: str, device: str = "cpu") -> None:
        """Load it.

        Raises:
            ConfigError: weights that cannot be had.
        """
        self.id = f"sensevoice ({source})"
        self._model = load_funasr(self.id, source, device, max_single_segment_time=SENSEVOICE_SEGMENT_MS)

    def words(self, wave: np.ndarray, language: str | None) -> list[Word]:
        """See :class:`~pipeline.baselines.interfaces.Recogniser`; of other languages than five it detects which."""
        if len(wave) < SHORTEST_S * SAMPLE_RATE:
            return []
        asked = {
            "input": wave, "fs": SAMPLE_RATE, "batch_size_s": 300, "use_itn": False,
            "language": language if language in SENSEVOICE_LANGUAGES else "auto",
        }  # fmt: skip
        try:
            return [w for r in self._model.generate(**asked, output_timestamp=True) for w in sensevoice_words(r)]
        except IndexError:  # FunASR encodes its text again for the times, which may give other pieces than it had
            logger.warning("%s: FunASR cannot time this audio; words are spread over its VAD's segments", self.id)
        return [w for r in self._model.generate(**asked, sentence_timestamp=True) for w in segment_words(r)]


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
    return [Word(part, *_span(span, "Paraformer")) for part, span in zip(cut(text, places), times, strict=True)]


def sensevoice_words(result: Mapping[str, Any]) -> list[Word]:
    """FunASR's ``{text, words, timestamp: [[ms, ms], …]}`` as words, without tags of language, emotion and event.

    Its words are pieces of a vocabulary, joined where they are of ASCII letters; the text has their spaces.

    Raises:
        ConfigError: there is text without words and times, or another number of them.
    """
    text = " ".join(_TAG.sub(" ", str(result.get("text", ""))).split())
    if not any(c.isalnum() for c in text):
        return []
    words, times = result.get("words") or [], result.get("timestamp") or []
    if not words or len(words) != len(times):
        raise ConfigError(
            f"SenseVoice gave {len(words)} words and {len(times)} times for {text[:60]!r}; a FunASR is needed "
            "whose output_timestamp gives both, as 1.4 does"
        )
    return placed(
        text, [Word(_TAG.sub("", str(w)), *_span(t, "SenseVoice")) for w, t in zip(words, times, strict=True)]
    )


def segment_words(result: Mapping[str, Any]) -> list[Word]:
    """FunASR's ``{sentence_info: [{text, start, end}, …]}``, milliseconds, as words in proportion to letters."""
    return [
        w
        for s in result.get("sentence_info") or []
        for w in spread(f" {s['text']}", *_span((s["start"], s["end"]), "SenseVoice"))
    ]


def _span(span: Any, where: str) -> tuple[float, float]:
    """Milliseconds → seconds.

    Raises:
        ConfigError: it is not a start and an end.
    """
    if not (isinstance(span, Sequence) and len(span) == 2):
        raise ConfigError(f"{where} gave {str(span)[:60]} for a start and an end: its output is not as documented")
    return as_seconds(span[0], where) / 1000, as_seconds(span[1], where) / 1000
