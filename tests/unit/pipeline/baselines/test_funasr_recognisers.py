"""Paraformer and SenseVoice through FunASR's AutoModel, on tiny checkpoints of the published layout."""

from __future__ import annotations

import importlib
from pathlib import Path

import numpy as np
import pytest
import torch

from pipeline.baselines.funasr_recognisers import sensevoice_words
from pipeline.baselines.interfaces import Word
from pipeline.baselines.recognisers import load_recogniser
from shards.errors import ConfigError
from tests.support.funasr_folders import paraformer_folder, sensevoice_folder, tones, vad_folder

# Tones and silence, (tone, seconds): FunASR's VAD ends a segment after 2 s of silence where it has heard little speech.
PLAN = [
    (None, 0.5),
    (0, 0.3),
    (None, 0.2),
    (1, 0.3),
    (None, 2.7),
    (2, 0.3),
    (3, 0.3),
    (None, 0.2),
    (0, 0.3),
    (None, 0.6),
]
SAID = [("今", 0.5, 0.8), ("天", 1.0, 1.3), ("hello", 4.0, 4.6), ("今", 4.8, 5.1)]


@pytest.fixture(scope="module")
def vad(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return vad_folder(tmp_path_factory.mktemp("vad") / "vad")


@pytest.fixture(scope="module")
def sensevoice(vad: Path) -> Path:
    return sensevoice_folder(vad.parent / "sensevoice", PLAN)


def test_sensevoice_writes_words_at_their_times_without_tags(sensevoice: Path, vad: Path, caplog):
    recogniser = load_recogniser(f"sensevoice@{sensevoice},{vad}")
    words = recogniser.words(tones(PLAN), "zh")
    assert "".join(w.text for w in words) == "今天 hello今"
    assert [w.text.strip() for w in words] == [text for text, *_ in SAID]
    for word, (_, start, end) in zip(words, SAID, strict=True):
        assert (word.start, word.end) == pytest.approx((start, end), abs=0.1)
    assert recogniser.words(tones(PLAN), "sw") == words  # a language that it does not know is detected
    assert (
        recogniser.words(np.zeros(16_000, np.float32), None) == recogniser.words(np.zeros(90, np.float32), None) == []
    )
    assert not [m for m in caplog.messages if "not in the checkpoint" in m]


def test_audio_that_funasr_cannot_time_is_spread_over_segments(sensevoice: Path, vad: Path, monkeypatch, caplog):
    """Users of FunASR report ``list index out of range`` from its times."""

    def fails(*args: object, **kwargs: object) -> None:
        raise IndexError("list index out of range")

    recogniser = load_recogniser(f"sensevoice@{sensevoice},{vad}")
    monkeypatch.setattr(importlib.import_module("funasr.models.sense_voice.model"), "ctc_forced_align", fails)
    words = recogniser.words(tones(PLAN), "zh")
    assert "".join(w.text for w in words).split() == ["今天", "hello今"]
    assert "words are spread over its VAD's segments" in caplog.text
    first, second = words[:2], words[2:]
    assert first[0].start < 0.5
    assert 1.3 < first[-1].end < 2.0
    assert 3.5 < second[0].start < 4.0
    assert second[-1].end > 5.1
    assert second[0].end - second[0].start == pytest.approx(5 * (second[1].end - second[1].start))


def test_weights_under_other_names_are_warned_of(sensevoice: Path, vad: Path, tmp_path: Path, caplog):
    for file in sensevoice.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    state = torch.load(tmp_path / "model.pt")
    torch.save({k.replace("ctc.ctc_lo", "ctc.lo"): v for k, v in state.items()}, tmp_path / "model.pt")
    load_recogniser(f"sensevoice@{tmp_path},{vad}")
    assert "2 of its weights are not in the checkpoint, or have another shape" in caplog.text
    assert "ctc.ctc_lo.weight" in caplog.text


def test_paraformer_s_characters_and_words_have_times(vad: Path, caplog):
    words = ["今", "天", "你", "好", "chat", "g@@", "pt"]
    folder = paraformer_folder(vad.parent / "paraformer", words, {"今": ["今"], "chatgpt": ["chat", "g@@", "pt"]})
    recogniser = load_recogniser(f"paraformer@{folder},{vad}")
    found = recogniser.words(tones(PLAN), None)
    (raw,) = recogniser._model.generate(input=tones(PLAN), fs=16_000)
    assert "".join(w.text for w in found) == raw["text"]
    assert [[round(w.start * 1000), round(w.end * 1000)] for w in found] == raw["timestamp"]
    assert {w.text.strip() for w in found} > {"天", "chat"}
    assert found[0].start < 1.6
    assert found[-1].start > 3.9  # of the second stretch of speech
    assert not [m for m in caplog.messages if "not in the checkpoint" in m]


@pytest.mark.parametrize("name", ["paraformer", "sensevoice"])
def test_a_folder_that_is_no_checkpoint_is_named(name: str, vad: Path, tmp_path: Path):
    with pytest.raises(ConfigError, match=rf"{name} \({tmp_path},{vad}\) could not be loaded"):
        load_recogniser(f"{name}@{tmp_path},{vad}")


def test_sensevoice_s_first_word_and_cut_words():
    """The first piece keeps its mark of a space, and an apostrophe is a piece of its own."""
    found = {
        "text": "<|en|><|HAPPY|><|Laughter|><|woitn|>it's <|en|><|NEUTRAL|><|Speech|><|woitn|>ok",
        "words": ["▁it", "'", "s", "▁ok"],
        "timestamp": [[0, 100], [100, 150], [150, 300], [1000, 1200]],
    }
    assert sensevoice_words(found) == [Word("it's ", 0.0, 0.3), Word("ok", 1.0, 1.2)]
    assert sensevoice_words({"text": "<|nospeech|><|EMO_UNKNOWN|><|Event_UNK|><|woitn|>"}) == []
    with pytest.raises(ConfigError, match="gave 0 words and 0 times for 'hello'"):
        sensevoice_words({"text": "<|en|>hello"})
    with pytest.raises(ConfigError, match=r"gave \[5\] for a start and an end"):
        sensevoice_words({"text": "hello", "words": ["▁hello"], "timestamp": [[5]]})
