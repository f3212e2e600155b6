"""Rows of tokens that a stand-in never practised are trained, alone."""

from __future__ import annotations

import importlib
from pathlib import Path
from types import ModuleType

import pytest
import torch

from pipeline.dialogue.build import DialogueRules
from pipeline.prompts import PromptTokenizer
from pipeline.stages import Task
from pipeline.standins.train_llm import new_llm
from pipeline.standins.words import write_tokenizer

WORDS = {"en": ["one", "two", "six"], "zh": ["一", "二"]}
META = {
    "language": "en",
    "duration": 4.0,
    "genders": {"a": "male"},
    "segments": [
        {"speaker": "a", "start": 0.25, "end": 1.7, "text": "one two"},
        {"speaker": "b", "start": 1.9, "end": 3.6, "text": "six"},
    ],
}


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The script, found as by another in its folder."""
    monkeypatch.syspath_prepend(str(Path(__file__).resolve().parents[3] / "launch"))
    return importlib.import_module("reason_llm")


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> PromptTokenizer:
    return write_tokenizer(tmp_path_factory.mktemp("llm"), WORDS)


def test_a_dialogue_without_its_audio(made: ModuleType, tokenizer: PromptTokenizer) -> None:
    ids, target = made.written(META, Task.SINGLE, tokenizer, DialogueRules())
    answer = tokenizer.decode([i for i, t in zip(ids, target, strict=True) if t])
    assert answer == "<answer>\nMale 1 [0.25, 1.7]: one two\nSpeaker 2 [1.9, 3.6]: six\n</answer>"
    assert ids[-1] == tokenizer.eos
    turns = made.written(META, Task.REASON, tokenizer, DialogueRules())
    assert sum(turns[1]) > 2 * sum(target)


def test_digits_and_tags_are_unused_and_words_and_names_are_not(made: ModuleType, tokenizer: PromptTokenizer) -> None:
    used = made.practised(tokenizer, WORDS)
    assert {tokenizer.eos, *tokenizer.encode_piece(" one"), *tokenizer.encode_common("spk0")} <= used
    assert not {*tokenizer.encode_common("789")} & used
    assert not {*tokenizer.encode_common("]</")} <= used


def test_only_the_chosen_rows_change_and_the_text_becomes_likely(made: ModuleType, tokenizer: PromptTokenizer) -> None:
    torch.manual_seed(0)
    model = new_llm(tokenizer)
    model.set_attn_implementation("sdpa")
    before = {n: p.detach().clone() for n, p in model.named_parameters()}
    rows = sorted(set(range(len(tokenizer.tokenizer))) - made.practised(tokenizer, WORDS))
    text = made.written(META, Task.SINGLE, tokenizer, DialogueRules())
    ids, is_target = torch.tensor([text[0]]), torch.tensor([text[1]])

    def loss() -> float:
        with torch.no_grad():
            logits = model(ids).logits[:, :-1][is_target[:, 1:]]
            return torch.nn.functional.cross_entropy(logits, ids[:, 1:][is_target[:, 1:]]).item()

    at_first = loss()
    made.train_rows(model, rows, [text], 12, 0)
    assert loss() < 0.7 * at_first
    kept = torch.ones(len(tokenizer.tokenizer), dtype=torch.bool)
    kept[rows] = False
    for name, parameter in model.named_parameters():
        if name in ("model.embed_tokens.weight", "lm_head.weight"):
            assert torch.equal(parameter[kept], before[name][kept])
            assert not torch.equal(parameter[~kept], before[name][~kept])
        else:
            assert torch.equal(parameter, before[name])
