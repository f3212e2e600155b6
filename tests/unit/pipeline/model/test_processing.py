"""The processor alone and under AutoProcessor: what goes in, what comes out, and what it refuses."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pipeline.model.auto import register_auto_classes
from pipeline.model.build import build_model, load_tokenizer
from pipeline.model.processing_speakerlm import SpeakerLMProcessor
from pipeline.prompts import Mode, Prompt, PromptTokenizer, prompt_pieces
from shards.errors import AudioError, ConfigError, ModelError, SpeakerError
from tests.support.tiny import TEXTS, TinyBase, make_tokenizer, model_config

DIM = 16
WAVE = np.zeros(8000, np.float32)


@pytest.fixture(scope="module")
def processor(base: TinyBase) -> SpeakerLMProcessor:
    return SpeakerLMProcessor(load_tokenizer(model_config(base)), 2, DIM, "campplus")


def vector(seed: int, dim: int = DIM) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(dim).astype(np.float32)


def test_mappings_of_names_are_the_papers_prompts(processor: SpeakerLMProcessor) -> None:
    named = {"Mike": vector(1), "Lucy": vector(2)}
    inputs = processor([WAVE, WAVE], registered=[named, None])
    prompts = [
        Prompt(tuple(prompt_pieces(Mode.MATCH, ["Mike", "Lucy"])), WAVE, np.stack(list(named.values()))),
        Prompt(tuple(prompt_pieces(Mode.NO)), WAVE),
    ]
    expected = processor.encode(prompts)
    assert inputs.keys() == expected.keys()
    assert all(torch.equal(inputs[name], expected[name]) for name in inputs)
    alone = processor(WAVE, mode="asr")
    assert torch.equal(
        alone["input_ids"], processor.encode([Prompt(tuple(prompt_pieces(Mode.ASR)), WAVE)])["input_ids"]
    )


def test_it_is_found_by_auto_classes_and_survives_saving(base: TinyBase, tmp_path: Path) -> None:
    from transformers import AutoConfig, AutoModel, AutoModelForSpeechSeq2Seq, AutoProcessor

    register_auto_classes()
    register_auto_classes()
    model = build_model(model_config(base))
    processor = SpeakerLMProcessor(load_tokenizer(model_config(base)).tokenizer, 2, DIM, "random", "Other words.")
    model.save_pretrained(str(tmp_path))
    processor.save_pretrained(str(tmp_path))
    again: Any = AutoProcessor.from_pretrained(str(tmp_path))
    assert type(again) is SpeakerLMProcessor
    assert (again.stride, again.speaker_dim, again.extractor, again.system) == (2, DIM, "random", "Other words.")
    assert again.prompts.hash == processor.prompts.hash
    assert type(AutoConfig.from_pretrained(str(tmp_path))) is type(model.config)
    for auto in (AutoModel, AutoModelForSpeechSeq2Seq):
        loaded = auto.from_pretrained(str(tmp_path)).eval()
        inputs = processor([WAVE + 0.01, WAVE[:5000]], registered=[{"Mike": vector(1)}, None])
        ends = {"max_new_tokens": 6, "eos_token_id": processor.prompts.eos, "pad_token_id": processor.prompts.pad}
        assert torch.equal(loaded.generate(**inputs, **ends), model.eval().generate(**inputs, **ends))


@pytest.mark.parametrize(
    ("audio", "says"),
    [
        (WAVE[:0], r"audio 1 of 1 has the shape \(0,\)"),
        (WAVE[:399], "at least 400 samples"),
        (np.zeros((2, 8000), np.float32), r"shape \(2, 8000\)"),
        (np.where(np.arange(8000) == 4000, np.nan, WAVE), r"not finite from sample 4000 \(0\.25 s\)"),
        ([WAVE, np.full(8000, np.inf)], "audio 2 of 2 is not finite"),
        ([], "no audio is given"),
        (WAVE.tolist()[:399], "at least 400 samples"),
    ],
)
def test_audio_that_cannot_be_used_is_named(processor: SpeakerLMProcessor, audio: Any, says: str) -> None:
    with pytest.raises(AudioError, match=says):
        processor(audio)


def test_an_unknown_mode_is_refused(processor: SpeakerLMProcessor) -> None:
    with pytest.raises(ConfigError, match="no mode 'names'; there are asr, no, match, over"):
        processor(WAVE, mode="names")


def test_another_rate_is_refused(processor: SpeakerLMProcessor) -> None:
    with pytest.raises(AudioError, match="44100 Hz; the model takes 16000"):
        processor(WAVE, sampling_rate=44_100)


@pytest.mark.parametrize(
    ("registered", "more", "says"),
    [
        ({"Mike": vector(1, 192)}, {}, r"\(1, 192\); the model takes one vector of 16 .* with campplus"),
        ({"Mike": vector(1), "Lucy": vector(2, 8)}, {}, r"different shapes \(Mike: \(16,\), Lucy: \(8,\)\)"),
        ({"Mike": vector(1)}, {"extractor": "eres2netv2"}, "of 'eres2netv2', the model was trained with 'campplus'"),
        ({"Mike": vector(1) * np.nan}, {}, "not finite"),
        ([{"Mike": vector(1)}, None], {}, "1 audios, but registrations for 2"),
    ],
)
def test_registrations_that_cannot_be_used_are_named(
    processor: SpeakerLMProcessor, registered: Any, more: dict[str, str], says: str
) -> None:
    with pytest.raises(SpeakerError, match=says):
        processor(WAVE, registered=registered, **more)


def test_two_of_one_name_are_named() -> None:
    with pytest.raises(ModelError, match="registered twice: Mike; names in a prompt must differ"):
        prompt_pieces(Mode.MATCH, ["Mike", "Lucy", "Mike"])


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"chat_template": None}, "no chat template; use an instruct model's"),
        ({"eos_token": None}, "no end-of-sequence token"),
        ({"chat_template": "{{ messages[0]['role'] }}"}, "does not hold the user's text once"),
    ],
)
def test_a_tokenizer_without_what_the_prompt_needs_is_refused(tmp_path: Path, change: Any, says: str) -> None:
    tokenizer = PromptTokenizer.from_folder(make_tokenizer(tmp_path, TEXTS)).tokenizer
    for name, value in change.items():
        setattr(tokenizer, name, value)
    with pytest.raises(ModelError, match=says):
        SpeakerLMProcessor(tokenizer)


def test_a_folder_without_a_tokenizer_is_named(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=f"{tmp_path}: no usable tokenizer"):
        PromptTokenizer.from_folder(tmp_path)
