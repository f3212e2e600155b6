"""Stage 0: what its examples hold. That it trains and loads is the end-to-end test's."""

import random
from pathlib import Path

import numpy as np
import pytest

from pipeline.data.speaker_names import POOLS
from pipeline.prompts import Mode, PromptTokenizer
from pipeline.standins.exercises import (
    MATCH_UNTIL,
    MATCHES,
    MOST_VOICES,
    READ_UNTIL,
    Exercise,
    draw_exercises,
    make_text,
)
from pipeline.standins.packed_texts import seen_of
from pipeline.standins.train_encoder import SPEAKER_DIM, frame_voices
from pipeline.standins.words import NAMES, words_by_language, write_tokenizer
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
    assert not voices[20:].any(), "silence"


@pytest.mark.parametrize("mode", list(Mode))
@pytest.mark.parametrize("few", [True, False])
def test_a_drawn_conversation_can_be_answered_from_its_prompt(
    tokenizer: PromptTokenizer, mode: Mode, few: bool
) -> None:
    rng = random.Random(1)
    for _ in range(12):
        text = make_text(rng, tokenizer, WORDS, Exercise("talk", mode, few=few))
        answer = tokenizer.decode(text.ids[text.target_from :])
        lines = answer.split("\n")
        prompt = tokenizer.decode(text.ids[: text.target_from])
        heard = [speaker for _, _, speaker in text.audio]
        assert max([*heard, *(s for _, s in text.registered)]) < MOST_VOICES
        assert all(0 <= position < text.target_from for position, *_ in (*text.audio, *text.registered))
        assert ("Transcribe the speech." in prompt) == (mode is Mode.ASR) == (":" not in answer)
        assert len({line.split(":")[0] for line in lines}) == len(set(heard)) or mode is Mode.ASR
        if mode in (Mode.MATCH, Mode.OVER):
            assert (set(heard) == {s for _, s in text.registered}) == (mode is Mode.MATCH)
            assert set(heard) <= {s for _, s in text.registered}
            assert all(line.split(":")[0] in prompt for line in lines)
        elif mode is Mode.NO:
            assert lines[0].startswith("spk0: ")


@pytest.mark.parametrize("kind", ["read", "match", "talk"])
def test_questions_are_answered_by_the_registration(tokenizer: PromptTokenizer, kind: str) -> None:
    rng = random.Random(2)
    for _ in range(12):
        text = make_text(rng, tokenizer, WORDS, Exercise(kind, Mode.MATCH))
        voices = dict(text.registered)
        name_of = {voices[position]: token for position, token in text.asked_vectors}
        assert set(name_of) == set(voices.values())
        for position, token in text.asked_vectors:
            assert text.ids[position - 3] == token, "the name stands before <start> and the vector"
        said_by = {position: voice for position, _, voice in text.audio}
        assert all(name_of[said_by[position]] == token for position, token in text.asked_audio)
        assert bool(text.audio) == bool(text.asked_audio) == (kind != "read")
        assert (len(text.ids) > text.target_from) == (kind == "talk")
        if kind == "match":
            assert len(text.audio) == len(text.asked_audio) == MATCHES


def test_the_numbers_of_unregistered_speakers_are_asked_too(tokenizer: PromptTokenizer) -> None:
    text = make_text(random.Random(4), tokenizer, WORDS, Exercise("talk", Mode.NO))
    numbers = [tokenizer.tokenizer.decode([token]) for _, token in text.asked_audio]
    assert numbers[0] == "0"
    assert len(set(numbers)) == len({voice for _, _, voice in text.audio}) >= 2
    assert not make_text(random.Random(4), tokenizer, WORDS, Exercise("talk", Mode.ASR)).asked_audio


def test_exercises_go_from_reading_to_conversations() -> None:
    rng = random.Random(6)
    stages = (0.0, READ_UNTIL, MATCH_UNTIL, 0.9)
    drawn = {p: {(e.kind, e.mode) for _ in range(200) for e in draw_exercises(rng, p)} for p in stages}
    beside = {("match", Mode.MATCH), ("talk", Mode.ASR)}
    assert drawn[0.0] == {("read", Mode.MATCH)}
    assert drawn[READ_UNTIL] == beside
    assert drawn[MATCH_UNTIL] == beside | {("talk", Mode.NO), ("talk", Mode.MATCH)}
    assert drawn[0.9] == beside | {("talk", mode) for mode in Mode}


def test_the_share_without_registration_is_what_was_asked() -> None:
    """600 draws: 3 standard deviations are 37."""
    for share, progress in ((0.5, 0.9), (1 / 3, 0.9)):
        rng = random.Random(8)
        modes = [draw_exercises(rng, progress, no_share=share)[0].mode for _ in range(600)]
        assert abs(modes.count(Mode.NO) - 600 * share) < 37
        assert abs(modes.count(Mode.MATCH) - modes.count(Mode.OVER)) < 73


def test_only_the_vectors_of_a_registration_are_seen_from_behind_it(tokenizer: PromptTokenizer) -> None:
    text = make_text(random.Random(3), tokenizer, WORDS, Exercise("match", Mode.MATCH))
    hidden = tokenizer.decode([text.ids[i] for i in text.hidden])
    assert all(tokenizer.decode([name]) in hidden for _, name in text.asked_vectors)
    assert tokenizer.decode(text.ids[text.seen_from : text.audio[0][0]]) == "Transcribe by roles. <start>"
    seen = seen_of(text)
    assert [p for p, _ in text.registered if p not in seen] == []
    assert sorted([*seen, *text.hidden]) == list(range(text.seen_from))
    before = min(text.hidden)
    assert seen[:before] == list(range(before)), "nothing before the registration is hidden"


@pytest.mark.parametrize("mode", list(Mode))
def test_while_writing_the_audio_of_the_next_word_is_pointed_at(tokenizer: PromptTokenizer, mode: Mode) -> None:
    rng = random.Random(7)
    for _ in range(12):
        text = make_text(rng, tokenizer, WORDS, Exercise("talk", mode, turns=6, words=4))
        heard = {position: (token, voice) for position, token, voice in text.audio}
        labels, written, turn_ends = [], [], 0
        for position, first, end in text.pointed:
            spans = [heard[p] for p in range(first, end)]
            assert len(set(spans)) == 1, "one word by one voice"
            token, voice = spans[0]
            next_token = text.ids[position + 1]
            if tokenizer.decode([next_token]).strip() == tokenizer.decode([token]).strip():
                written.append(first)
            else:
                labels.append((next_token, voice))
                turn_ends += 1
        assert written == sorted(written), "audio is written in its order"
        words = {first for _, first, _ in text.pointed}
        assert set(written) == words, "every word is written once"
        assert len(written) == len(words)
        assert bool(labels) == (mode is not Mode.ASR)
        if text.registered:  # a label is pointed at the voice that bears it
            name_of = {v: n for (_, v), (_, n) in zip(text.registered, text.asked_vectors, strict=True)}
            assert all(name_of[voice] == token for token, voice in labels)
