"""Stage 0: what its examples hold. That it trains and loads is the end-to-end test's."""

import random
from pathlib import Path

import numpy as np
import pytest

from pipeline.data.names import POOLS
from pipeline.prompts import PromptTokenizer
from pipeline.tiny.conversations import MATCH_UNTIL, MATCHES, MOST_VOICES, READ_UNTIL, make_text
from pipeline.tiny.encoder import SPEAKER_DIM, frame_voices
from pipeline.tiny.words import NAMES, words_by_language, write_tokenizer
from shards.sample import SAMPLE_RATE, Sample, Segment
from tests.support.datasets import make_dataset

WORDS = {"en": ["one", "two"], "it": ["uno", "due"], "zh": ["一", "二"]}


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> PromptTokenizer:
    return write_tokenizer(tmp_path_factory.mktemp("llm"), WORDS)


def test_words_are_taken_from_the_training_texts(tmp_path: Path) -> None:
    make_dataset(tmp_path / "asr", samples=6, speakers_per_sample=(1, 1), texts=("一二", "二三"))
    found = words_by_language(tmp_path)
    assert list(found) == ["zh"]
    assert {"二"} < set(found["zh"]) <= {"一", "二", "三"}, "Chinese is cut into characters"


def test_every_word_and_name_is_one_token(tokenizer: PromptTokenizer) -> None:
    for word in ("one", "uno", "一"):
        assert len(tokenizer.encode_piece(f" {word}")) == len(tokenizer.encode_piece(word)) == 1
    assert {len(tokenizer.encode_piece(name)) for name in NAMES} == {1}
    assert len(tokenizer.encode_piece(" 一二")) == 2
    assert set(NAMES) <= set(POOLS["en"])


def test_frames_know_the_one_person_who_speaks() -> None:
    vectors = np.eye(2, SPEAKER_DIM, dtype=np.float16)
    segments = (Segment("a", 0.0, 0.6, "x"), Segment("b", 0.48, 1.2, "y"))
    sample = Sample("k", "c", "train", "s", "en", 0.0, 2 * SAMPLE_RATE, segments, b"", vectors)
    voices = frame_voices(sample, 33)
    assert voices.shape == (33, SPEAKER_DIM)
    assert (voices[:8] == vectors[0]).all()
    assert not voices[8:10].any(), "two speak"
    assert (voices[10:20] == vectors[1]).all()
    assert not voices[20:].any(), "nobody speaks"


@pytest.mark.parametrize("progress", [MATCH_UNTIL, 0.9])
def test_a_drawn_conversation_can_be_answered_from_its_prompt(tokenizer: PromptTokenizer, progress: float) -> None:
    rng = random.Random(1)
    for _ in range(40):
        text = make_text(rng, tokenizer, WORDS, progress)
        answer = tokenizer.decode(text.ids[text.target_from :])
        lines = answer.split("\n")
        prompt = tokenizer.decode(text.ids[: text.target_from])
        heard = [speaker for _, _, speaker in text.audio]
        assert max([*heard, *(s for _, s in text.registered)]) < MOST_VOICES
        assert all(0 <= position < text.target_from for position, *_ in (*text.audio, *text.registered))
        if not answer:  # a match exercise
            assert len(text.audio) == MATCHES
        elif "Registered" in prompt:
            assert set(heard) <= {s for _, s in text.registered}
            assert all(line.split(":")[0] in prompt for line in lines)
        elif "roles" in prompt:
            assert lines[0].startswith("spk0: ")
            assert len({line.split(":")[0] for line in lines}) == len(set(heard))
        else:
            assert "Transcribe the speech." in prompt
            assert ":" not in answer


@pytest.mark.parametrize("progress", [0.0, READ_UNTIL, 0.9])
def test_questions_are_answered_by_the_registration(tokenizer: PromptTokenizer, progress: float) -> None:
    rng, asked = random.Random(2), 0
    for _ in range(20):
        text = make_text(rng, tokenizer, WORDS, progress)
        voices = dict(text.registered)
        name_of = {voices[position]: token for position, token in text.asked_vectors}
        assert set(name_of) == set(voices.values())
        for position, token in text.asked_vectors:
            assert text.ids[position - 3] == token, "the name stands before <start> and the vector"
        said_by = {position: voice for position, _, voice in text.audio}
        for position, token in text.asked_audio:
            assert not name_of or name_of[said_by[position]] == token
            asked += 1
        assert bool(text.audio) == (progress > 0)
    assert bool(asked) == (progress > 0)


def test_only_the_vectors_of_a_registration_are_seen_from_behind_it(tokenizer: PromptTokenizer) -> None:
    text = make_text(random.Random(3), tokenizer, WORDS, READ_UNTIL)
    seen = [i for i in range(text.seen_from) if i not in text.hidden]
    vectors = {position for position, _ in text.registered}
    assert vectors <= set(seen)
    assert "Registered Speaker Embeddings:" in tokenizer.decode([text.ids[i] for i in seen])
    hidden = tokenizer.decode([text.ids[i] for i in text.hidden])
    assert all(tokenizer.decode([name]) in hidden for _, name in text.asked_vectors)
    behind = tokenizer.decode(text.ids[text.seen_from : text.audio[0][0]])
    assert behind == "Transcribe by roles. <start>"
