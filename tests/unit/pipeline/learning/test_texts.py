"""The default LLM's examples: what they hold."""

import random

import pytest

from pipeline.learning.llm import MOST_VOICES, make_text
from pipeline.learning.words import write_tokenizer
from pipeline.prompts import PromptTokenizer

WORDS = {"en": ["one", "two"], "it": ["uno", "due"], "zh": ["一", "二"]}


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> PromptTokenizer:
    return write_tokenizer(tmp_path_factory.mktemp("llm"), WORDS)


@pytest.mark.parametrize("progress", [0.0, 0.4, 0.9])
def test_a_drawn_text_can_be_answered_from_its_prompt(tokenizer: PromptTokenizer, progress: float) -> None:
    rng = random.Random(1)
    for _ in range(40):
        text = make_text(rng, tokenizer, WORDS, progress)
        answer = tokenizer.decode(text.ids[text.target_from :])
        lines = answer.split("\n")
        prompt = tokenizer.decode(text.ids[: text.target_from])
        heard = [speaker for _, _, speaker in text.audio]
        assert max([*heard, *(s for _, s in text.registered)]) < MOST_VOICES
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
