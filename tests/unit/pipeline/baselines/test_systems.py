"""Recognisers and diarizers: what published systems put out → our records; the packaged ones on real speech."""

from __future__ import annotations

import builtins
from types import SimpleNamespace

import numpy as np
import pytest

from pipeline.baselines.clustering import Clustering, groups, turns_of
from pipeline.baselines.diarizers import annotation_turns, load_diarizer, threed_speaker_turns
from pipeline.baselines.funasr_recognisers import paraformer_words
from pipeline.baselines.interfaces import DiarizedTurn, Word
from pipeline.baselines.recognisers import (
    drop_impossible,
    load_recogniser,
    retry_repetitions,
    whisper_words,
)
from pipeline.transcribe.load_vad import load_vad
from shards.errors import ConfigError
from shards.voices.features import unit_norm
from shards.voices.funasr_modules import funasr_module
from tests.support.speech import package_cache
from tests.support.voices import PEOPLE, extractor, talk


def test_paraformer_s_text_and_times_as_funasr_makes_them():
    """Tokens with byte-pair marks through FunASR's own post-processing, as its Paraformer calls it."""
    tokens = ["今", "天", "用", "chat", "g@@", "pt", "开", "会"]
    times = [[100 * i, 100 * i + 90] for i in range(len(tokens))]
    text, stamps, _ = funasr_module("funasr.utils.postprocess_utils").sentence_postprocess(tokens, times)
    words = paraformer_words({"key": "a", "text": text, "timestamp": stamps})
    assert "".join(w.text for w in words) == text
    assert [w.text.strip() for w in words] == ["今", "天", "用", "chat", "gpt", "开", "会"]
    assert (words[0].start, words[0].end) == (0.0, 0.09)
    assert words[4].start == 0.4
    assert words[4].end == 0.59


def test_punctuation_has_no_time_and_stays_with_the_word_before_it():
    words = paraformer_words({"text": "好，it's ok。", "timestamp": [[0, 100], [200, 300], [300, 400]]})
    assert [w.text for w in words] == ["好，", "it's ", "ok。"]


def test_paraformer_without_times_is_refused():
    with pytest.raises(ConfigError, match=r"0 times for 2 words .* a model with times is needed"):
        paraformer_words({"text": "你好"})
    assert paraformer_words({"text": ""}) == []


def test_whisper_s_segments():
    said = [
        SimpleNamespace(words=[SimpleNamespace(word=" Hello,", start=np.float64(0.5), end=0.75, probability=0.9)]),
        SimpleNamespace(words=None),
    ]
    assert whisper_words(iter(said)) == [Word(" Hello,", 0.5, 0.75)]


def heard(seek: int, ratio: float, text: str) -> SimpleNamespace:
    return SimpleNamespace(seek=seek, compression_ratio=ratio, text=text)


def test_whisper_s_circles_are_heard_again_window_by_window():
    asked: list[tuple[float, float]] = []

    def again(span: tuple[float, float]) -> list[SimpleNamespace]:
        asked.append(span)
        return [heard(0, 5.0, f"again {len(asked)}")]  # stands, though it turns in circles too

    said = [heard(0, 1.1, "a"), heard(2900, 9.0, "b b b"), heard(2900, 9.0, "b b"), heard(5700, 1.0, "c")]
    assert [s.text for s in retry_repetitions(said, again)] == ["a", "again 1", "c"]
    assert asked == [(29.0, 57.0)]
    assert [s.text for s in retry_repetitions([heard(0, 3.0, "x x x")], again)] == ["again 2"]
    assert asked[-1] == (0.0, 30.0)
    assert retry_repetitions([], again) == []


def test_segments_with_more_words_than_can_be_spoken_are_skipped_with_a_warning(caplog):
    def said(start: float, end: float, count: int) -> SimpleNamespace:
        return SimpleNamespace(start=start, end=end, words=[SimpleNamespace(word=" sorry")] * count)

    speech = [said(0.0, 1.0, 7), said(1.0, 1.08, 1), said(2.0, 2.56, 5), said(3.0, 3.0, 2)]
    assert drop_impossible([*speech, said(29.82, 29.98, 109), said(29.94, 29.98, 22)], "whisper-base") == speech
    warnings = caplog.messages
    assert len(warnings) == 2
    assert warnings[0].startswith(
        "whisper-base: 109 words in 29.82-29.98 s skipped, more than can be spoken: 'sorry sorry"
    )
    assert drop_impossible([SimpleNamespace(start=0.0, end=0.0, words=None)], "x")  # without times of words


def test_3d_speaker_s_rows():
    output = {"text": [[4.35, 6.1, 1], [0.0, 4.35, 0]]}
    assert threed_speaker_turns(output) == [DiarizedTurn("0", 0.0, 4.35), DiarizedTurn("1", 4.35, 6.1)]
    with pytest.raises(ConfigError, match="3D-Speaker gave"):
        threed_speaker_turns([[0, 1, 2]])
    with pytest.raises(ConfigError, match="gave 'x' for a time"):
        threed_speaker_turns({"text": [["x", 1, 2]]})


@pytest.mark.parametrize("version", [3, 4])
def test_pyannote_s_annotation(version: int):
    from pyannote.core import Annotation, Segment

    found = Annotation()
    found[Segment(1.0, 3.0), "b"] = "SPEAKER_01"
    found[Segment(0.0, 2.0), "a"] = "SPEAKER_00"
    output = found if version == 3 else SimpleNamespace(speaker_diarization=found, exclusive_speaker_diarization=None)
    assert annotation_turns(output) == [DiarizedTurn("SPEAKER_00", 0.0, 2.0), DiarizedTurn("SPEAKER_01", 1.0, 3.0)]
    with pytest.raises(ConfigError, match="expected an Annotation"):
        annotation_turns([1])


@pytest.mark.parametrize(
    ("name", "hidden", "says"),
    [
        ("pyannote", "pyannote.audio", r"pyannote/speaker-diarization-3.1\) needs .*speakerlm-pretrain\[pyannote\]"),
        ("sortformer", "nemo", r"diar_sortformer_4spk-v1\) needs NVIDIA NeMo.*nemo_toolkit"),
        ("diarizen", "diarizen", r"BUT-FIT/diarizen-wavlm-large-s80-md\) needs .*BUTSpeechFIT/DiariZen"),
    ],
)
def test_a_library_that_is_missing_is_named_with_the_model_and_the_way(monkeypatch, name, hidden, says):
    real = builtins.__import__

    def without(module, *args, **kwargs):
        if module.startswith(hidden):
            raise ImportError(f"No module named {hidden!r}")
        return real(module, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ConfigError, match=says):
        load_diarizer(name)


def test_whisper_without_its_extra(monkeypatch):
    real = builtins.__import__

    def without(module, *args, **kwargs):
        if module == "faster_whisper":
            raise ImportError("No module named 'faster_whisper'")
        return real(module, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ConfigError, match=r"whisper-base needs faster-whisper.*speakerlm-pretrain\[baselines\]"):
        load_recogniser("whisper")


def test_names_that_are_not_known():
    with pytest.raises(
        ConfigError, match=r"no recogniser 'x'; there are whisper, paraformer, sensevoice and qwen3-asr"
    ):
        load_recogniser("x")
    with pytest.raises(
        ConfigError, match=r"no diarizer 'x'; there are clustering, segmentation, 3d-speaker, pyannote, diarizen"
    ):
        load_diarizer("x")
    with pytest.raises(ConfigError, match="threshold 3"):
        Clustering(extractor(), load_vad, 3.0)


def test_groups_and_their_turns():
    near = unit_norm(np.array([[1, 0.1], [1, 0.0], [0.1, 1], [0, 1]], np.float32))
    labels = groups(near, 0.5)
    assert labels[0] == labels[1] != labels[2] == labels[3]
    assert len(set(groups(near, 0.5, count=1))) == 1
    places = np.array([[0.0, 1.5], [0.5, 2.0], [1.0, 2.5], [5.0, 6.0]])
    assert turns_of([(0.0, 2.5), (3.0, 3.1), (5.0, 6.0)], places, np.array([1, 1, 2, 2])) == [
        DiarizedTurn("1", 0.0, 1.5), DiarizedTurn("2", 1.5, 2.5), DiarizedTurn("2", 5.0, 6.0),
    ]  # fmt: skip
    assert turns_of([], np.zeros((0, 2)), groups(np.zeros((0, 4)), 0.5)) == []


def test_clustering_tells_three_real_voices_apart():
    wave, said = talk(PEOPLE, 12)
    found = load_diarizer("clustering", cache=package_cache()).turns(wave)
    heard = {s.person: {} for s in said}
    for t in found:
        for s in said:
            common = max(0.0, min(t.end, s.end) - max(t.start, s.start))
            heard[s.person][t.speaker] = heard[s.person].get(t.speaker, 0.0) + common
    total = sum(s.end - s.start for s in said)
    best = {person: max(times, key=times.get) for person, times in heard.items()}
    assert len(set(best.values())) == 3  # no two share a voice
    assert sum(heard[p][best[p]] for p in heard) > 0.85 * total


def test_silence_has_no_turns():
    diarizer = Clustering(extractor(), lambda: load_vad(cache=package_cache()))
    assert diarizer.turns(np.zeros(32_000, np.float32)) == []
    assert diarizer.turns(np.zeros(100, np.float32)) == []
