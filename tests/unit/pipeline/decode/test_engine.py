"""The engine on transformers: the texts of ``ask``, batches, aborted prompts."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Event

import pytest

import pipeline.decode.transformers_engine
from pipeline.decode.engine import answer
from pipeline.decode.generate import ask
from pipeline.decode.load_engine import load_engine
from pipeline.decode.transformers_engine import TransformersEngine
from pipeline.model.stopping import Guards
from shards.errors import AudioError, ConfigError
from tests.support.prompts import noise_prompt as prompt

GUARDS = Guards(tokens_per_second=4, least_tokens=3)


PROMPTS = [prompt(0.5), prompt(1.5, 1), prompt(1.0, 2)]


def test_answers_are_those_of_the_batch(model_and_tokenizer):
    engine = TransformersEngine(*model_and_tokenizer, GUARDS)
    found = answer(engine, PROMPTS)
    assert found == ask(*model_and_tokenizer, PROMPTS, GUARDS)
    assert answer(engine, []) == []
    assert engine.described() == {}


def test_a_step_answers_at_most_a_batch(model_and_tokenizer):
    engine = TransformersEngine(*model_and_tokenizer, GUARDS, batch=2)
    for key, ready in zip("abc", engine.prepare(PROMPTS), strict=True):
        engine.add(key, ready)
    assert [sorted(engine.step()) for _ in range(3)] == [["a", "b"], ["c"], []]


def test_an_aborted_prompt_has_no_answer(model_and_tokenizer):
    engine = TransformersEngine(*model_and_tokenizer, GUARDS)
    for key, ready in zip("abc", engine.prepare(PROMPTS), strict=True):
        engine.add(key, ready)
    engine.abort("b")
    engine.abort("unknown")
    assert sorted(engine.step()) == ["a", "c"]


def test_a_batch_ends_when_all_of_it_is_aborted(model_and_tokenizer, monkeypatch: pytest.MonkeyPatch):
    """Of one aborted prompt the answer is dropped, after the last one generation stops."""
    running, go_on = Event(), Event()
    real = pipeline.decode.transformers_engine.ask
    tokens: list[int] = []

    def ask(*args, interrupt, **options):
        def waiting() -> bool:
            running.set()
            assert go_on.wait(60)
            return interrupt()

        answers = real(*args, interrupt=waiting, **options)
        tokens.extend(a.tokens for a in answers)
        return answers

    monkeypatch.setattr(pipeline.decode.transformers_engine, "ask", ask)
    engine = TransformersEngine(*model_and_tokenizer, GUARDS)
    for key, ready in zip("ab", engine.prepare(PROMPTS), strict=False):
        engine.add(key, ready)
    with ThreadPoolExecutor(1) as thread:
        step = thread.submit(engine.step)
        assert running.wait(60)
        engine.abort("a")
        engine.abort("b")
        go_on.set()
        assert step.result() == {}
    assert tokens == [1, 1]
    engine.add("a", engine.prepare(PROMPTS[:1])[0])  # the key is free again
    assert sorted(engine.step()) == ["a"]


def test_a_prompt_that_cannot_be_taken_drops_the_queue(model_and_tokenizer):
    engine = TransformersEngine(*model_and_tokenizer, GUARDS, batch=2)
    for key, ready in zip("abc", engine.prepare([prompt(0.01), *PROMPTS[:2]]), strict=True):
        engine.add(key, ready)
    with pytest.raises(AudioError):
        engine.step()
    assert engine.step() == {}


def test_unknown_engine_is_refused(tmp_path: Path):
    with pytest.raises(ConfigError, match="unknown engine 'fast', known: transformers, vllm"):
        load_engine(tmp_path, "cpu", "fast")
