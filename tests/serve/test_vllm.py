"""The engine on a real vLLM: the tokens of transformers, its guards, batches that change while they are written."""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from benchmarks.support.engines import partings
from pipeline.decode.engine import answer
from pipeline.decode.generate import Answer
from pipeline.decode.load_engine import load_engine, load_model
from pipeline.decode.requests import Requests
from pipeline.decode.vllm_engine import VllmEngine, VllmSettings
from pipeline.export.folder import export
from pipeline.model.stopping import Guards
from pipeline.prompts import Mode, Prompt, prompt_pieces
from shards.errors import AudioError, ModelError
from tests.support.training import DIM, finished_run, make_parts

GUARDS = Guards(max_new_tokens=40)
EQUAL_UP_TO = 1e-4  # logit margin below which rounding may choose another token


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``run``, which has finished without learning anything, and ``merged``, its export."""
    folder = tmp_path_factory.mktemp("parts")
    make_parts(folder, heads=2)
    export(finished_run(folder), folder / "merged", merge=True)
    return folder


@pytest.fixture(scope="module")
def engine(parts: Path) -> Iterator[VllmEngine]:
    loaded, merged = VllmEngine.load(parts / "merged", "cpu", VllmSettings(1024, 4, guards=GUARDS), parts / "cache")
    assert (merged.config.extractor, merged.config.registration) == ("random", True)
    yield loaded
    loaded.close()
    loaded.close()


def prompt(number: int, names: tuple[str, ...] = ()) -> Prompt:
    rng = np.random.default_rng(number)
    wave = rng.normal(0, 0.1, rng.integers(8_000, 64_000)).astype(np.float32)
    vectors = rng.normal(0, 1, (len(names), DIM)).astype(np.float32) if names else None
    return Prompt(tuple(prompt_pieces(Mode.MATCH if names else Mode.NO, names)), wave, vectors)


PROMPTS = [prompt(i, ("Mike", "Lucy")[: i % 3]) for i in range(12)]


@pytest.fixture(scope="module")
def expected(parts: Path) -> list[Answer]:
    return answer(load_engine(parts / "run", "cpu", guards=GUARDS).engine, PROMPTS)


def test_tokens_and_reasons_are_those_of_transformers(parts: Path, engine: VllmEngine, expected: list[Answer]):
    """Twelve prompts in four places; what stops the answers differs among them."""
    found = answer(engine, PROMPTS)
    model, tokenizer, _, _ = load_model(parts / "run", "cpu")
    for parting in (apart := partings(model, tokenizer, PROMPTS, expected, found)):
        print(parting)
    assert all(abs(parting.margin) < EQUAL_UP_TO for parting in apart)
    alike = set(range(len(PROMPTS))) - {parting.prompt for parting in apart}
    assert len(alike) >= 10
    assert [found[i] for i in alike] == [expected[i] for i in alike]
    assert {"loop", "limit"} <= {a.stop for a in found}


def test_a_batch_has_the_same_answers_again(engine: VllmEngine):
    """Whatever the engine wrote before."""
    first = answer(engine, PROMPTS[:5])
    answer(engine, PROMPTS[6:])
    assert answer(engine, PROMPTS[:5]) == first
    assert answer(engine, []) == []


def test_requests_join_and_leave_while_others_are_written(engine: VllmEngine, expected: list[Answer]):
    ready = engine.prepare(PROMPTS[:3])
    engine.add("a", ready[0])
    engine.add("b", ready[1])
    assert engine.step() == {}
    engine.abort("b")
    engine.abort("unknown")
    engine.add("c", ready[2])
    found: dict[str, Answer] = {}
    while len(found) < 2:
        found |= engine.step()
    assert {key: a.tokens for key, a in found.items()} == {"a": expected[0].tokens, "c": expected[2].tokens}
    assert engine.step() == {}


def test_prompts_that_do_not_fit_fail_alone(engine: VllmEngine, expected: list[Answer]):
    """One without audio, one that is longer than the context."""
    long = Prompt(PROMPTS[0].pieces, np.tile(PROMPTS[0].waveform, 60))
    with pytest.raises(ModelError, match=r"a prompt of \d+ positions .* do not fit the engine's 1024 positions"):
        engine.prepare([long])
    asked = (PROMPTS[0], Prompt(PROMPTS[0].pieces, np.zeros(9, np.float32)), long)
    requests = Requests(engine)  # closed with the engine
    with ThreadPoolExecutor(3) as clients:
        good, silent, longest = (clients.submit(requests.ask, [p]) for p in asked)
        assert good.result(300) == expected[:1]
        with pytest.raises(AudioError):
            silent.result(300)
        with pytest.raises(ModelError, match="do not fit"):
            longest.result(300)
    assert requests.alive


def test_the_llm_of_the_engine_is_a_plain_folder(parts: Path, engine: VllmEngine):
    (folder,) = (parts / "cache" / "merged-llm").iterdir()
    assert json.loads((folder / "config.json").read_text())["architectures"] == ["Qwen2ForCausalLM"]
