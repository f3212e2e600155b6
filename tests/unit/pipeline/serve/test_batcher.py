"""Prompts of several requests in one batch; faults and cancellations stay with the request that they belong to."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from pipeline.decode.generate import Answer
from pipeline.prompts import Prompt
from pipeline.serve.batcher import Batcher
from pipeline.serve.jobs import Cancelled
from shards.errors import ModelError


def prompts(*texts: str) -> list[Prompt]:
    return [Prompt((text,), np.zeros(1)) for text in texts]  # type: ignore[arg-type]


class Model:
    """Echoes prompts; its first batch takes until it is released, so that others wait meanwhile."""

    def __init__(self) -> None:
        self.batches: list[list[str]] = []
        self.begun, self.release = threading.Event(), threading.Event()

    def __call__(self, given: list[Prompt]) -> list[Answer]:
        texts = [str(p.pieces[0]) for p in given]
        self.batches.append(texts)
        if len(self.batches) == 1:
            self.begun.set()
            assert self.release.wait(30)
        if "too long" in texts:
            raise ModelError("too long for the LLM")
        if "bug" in texts:
            raise RuntimeError("secret words of a client")
        return [Answer(text.upper(), "end", 1) for text in texts]


@pytest.fixture
def model() -> Model:
    return Model()


@pytest.fixture
def batcher(model: Model) -> Iterator[Batcher]:
    found = Batcher(model, 3)
    yield found
    model.release.set()
    found.close()


def wait_for(batcher: Batcher, count: int) -> None:
    end = time.monotonic() + 30
    while batcher.waiting != count:
        assert time.monotonic() < end
        time.sleep(0.005)


def test_waiting_requests_share_batches_in_turn(batcher: Batcher, model: Model) -> None:
    with ThreadPoolExecutor(4) as pool:
        first = pool.submit(batcher.ask, prompts("first"))
        assert model.begun.wait(30)
        long = pool.submit(batcher.ask, prompts("l1", "l2", "l3", "l4"))
        wait_for(batcher, 4)
        short = pool.submit(batcher.ask, prompts("s1"))
        wait_for(batcher, 5)
        model.release.set()
        assert [a.text for a in long.result(30)] == ["L1", "L2", "L3", "L4"]
        assert [a.text for a in short.result(30)] == ["S1"]
        assert [a.text for a in first.result(30)] == ["FIRST"]
    assert model.batches == [["first"], ["l1", "s1", "l2"], ["l3", "l4"]]


def test_a_fault_costs_only_its_request(batcher: Batcher, model: Model) -> None:
    with ThreadPoolExecutor(4) as pool:
        first = pool.submit(batcher.ask, prompts("first"))
        assert model.begun.wait(30)
        bad = pool.submit(batcher.ask, prompts("too long"))
        wait_for(batcher, 1)
        good = pool.submit(batcher.ask, prompts("good"))
        wait_for(batcher, 2)
        model.release.set()
        assert good.result(30)[0].text == "GOOD"
        with pytest.raises(ModelError, match="too long for the LLM"):
            bad.result(30)
        first.result(30)
    assert batcher.alive
    assert batcher.faults == 0  # a prompt that is too long is its client's


def test_three_internal_faults_in_a_row_are_reported(
    batcher: Batcher, model: Model, caplog: pytest.LogCaptureFixture
) -> None:
    model.release.set()
    for _ in range(3):
        assert batcher.alive
        with pytest.raises(RuntimeError):
            batcher.ask(prompts("bug"))
    assert not batcher.alive
    assert "RuntimeError at test_batcher.py:" in caplog.text
    assert "secret" not in caplog.text
    batcher.ask(prompts("good"))
    assert batcher.alive


def test_prompts_of_a_cancelled_request_are_not_asked(batcher: Batcher, model: Model) -> None:
    gone = threading.Event()

    def check() -> None:
        if gone.is_set():
            raise Cancelled

    with ThreadPoolExecutor(4) as pool:
        first = pool.submit(batcher.ask, prompts("first"))
        assert model.begun.wait(30)
        left = pool.submit(batcher.ask, prompts("a", "b"), check)
        wait_for(batcher, 2)
        gone.set()
        with pytest.raises(Cancelled):
            left.result(30)
        assert batcher.waiting == 0
        model.release.set()
        first.result(30)
        assert batcher.ask(prompts("c"))[0].text == "C"
        with pytest.raises(Cancelled):
            batcher.ask(prompts("d"), check)
    assert model.batches == [["first"], ["c"]]


def test_a_closed_batcher_refuses(model: Model) -> None:
    model.release.set()
    found = Batcher(model, 3)
    found.close()
    with pytest.raises(ModelError, match="stopping"):
        found.ask(prompts("x"))
