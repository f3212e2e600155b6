"""Stage 0: what its examples hold. That it trains and loads is the end-to-end test's."""

import random
from pathlib import Path

import numpy as np
import pytest

from pipeline import tiny
from pipeline.data.names import POOLS
from pipeline.prompts import PromptTokenizer
from shards.sample import SAMPLE_RATE, Sample, Segment
from tests.support.datasets import make_dataset

WORDS = {"en": ["one", "two"], "it": ["uno", "due"], "zh": ["一", "二"]}


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> PromptTokenizer:
    return tiny.write_tokenizer(tmp_path_factory.mktemp("llm"), WORDS)


def test_words_are_taken_from_the_training_texts(tmp_path: Path) -> None:
    make_dataset(tmp_path / "asr", samples=6, speakers_per_sample=(1, 1), texts=("一二", "二三"))
    found = tiny.words_by_language(tmp_path)
    assert list(found) == ["zh"]
    assert {"二"} < set(found["zh"]) <= {"一", "二", "三"}, "Chinese is cut into characters"


def test_every_word_and_name_is_one_token(tokenizer: PromptTokenizer) -> None:
    for word in ("one", "uno", "一"):
        assert len(tokenizer.encode_piece(f" {word}")) == len(tokenizer.encode_piece(word)) == 1
    assert {len(tokenizer.encode_piece(name)) for name in tiny.NAMES} == {1}
    assert len(tokenizer.encode_piece(" 一二")) == 2
    assert set(tiny.NAMES) <= set(POOLS["en"])


def test_frames_know_the_one_person_who_speaks() -> None:
    vectors = np.eye(2, tiny.SPEAKER_DIM, dtype=np.float16)
    segments = (Segment("a", 0.0, 0.6, "x"), Segment("b", 0.48, 1.2, "y"))
    sample = Sample("k", "c", "train", "s", "en", 0.0, 2 * SAMPLE_RATE, segments, b"", vectors)
    voices = tiny.frame_voices(sample, 33)
    assert voices.shape == (33, tiny.SPEAKER_DIM)
    assert (voices[:8] == vectors[0]).all()
    assert not voices[8:10].any(), "two speak"
    assert (voices[10:20] == vectors[1]).all()
    assert not voices[20:].any(), "nobody speaks"


@pytest.mark.parametrize("progress", [0.0, 0.4, 0.9])
def test_a_drawn_text_can_be_answered_from_its_prompt(tokenizer: PromptTokenizer, progress: float) -> None:
    rng = random.Random(1)
    for _ in range(40):
        text = tiny.make_text(rng, tokenizer, WORDS, progress)
        answer = tokenizer.decode(text.ids[text.target_from :])
        lines = answer.split("\n")
        prompt = tokenizer.decode(text.ids[: text.target_from])
        heard = [speaker for _, _, speaker in text.audio]
        assert max([*heard, *(s for _, s in text.registered)]) < tiny.MOST_VOICES
        assert all(0 <= position < text.target_from for position, *_ in (*text.audio, *text.registered))
        if progress == 0.0:
            assert "Transcribe the speech." in prompt
            assert ":" not in answer
        if "Registered" in prompt:
            assert set(heard) <= {s for _, s in text.registered}
            assert all(line.split(":")[0] in prompt for line in lines)
        elif "roles" in prompt:
            assert lines[0].startswith("spk0: ")
            assert len({line.split(":")[0] for line in lines}) == len(set(heard))
