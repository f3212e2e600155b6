"""Requests from many threads before one engine: each gets its own answer or its own error."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from concurrent.futures import CancelledError, ThreadPoolExecutor
from threading import Event
from typing import Any

import numpy as np
import pytest

from pipeline.decode.engine import Ready
from pipeline.decode.generate import Answer
from pipeline.decode.requests import Requests
from pipeline.model.stopping import Guards
from pipeline.prompts import Mode, Prompt, prompt_pieces
from shards.errors import AudioError, ModelError, SpeakerError

PIECES = tuple(prompt_pieces(Mode.NO))


def prompt(samples: int) -> Prompt:
    return Prompt(PIECES, np.zeros(samples, np.float32))


class Counting:
    """An engine whose answer is the number of samples, one token per step up to its last digit.

    At 400 samples prepare fails, at 401 a step; at 500 a step fails in a way that no prompt explains.
    """

    tokenizer: Any = None

    def __init__(self) -> None:
        self.guards = Guards()
        self.left: dict[str, list[int]] = {}
        self.aborted: list[str] = []
        self.batches: list[int] = []
        self.go_on, self.stepping, self.closed = Event(), Event(), False
        self.go_on.set()

    def described(self) -> dict[str, Any]:
        return {}

    def prepare(self, prompts: Sequence[Prompt]) -> list[Ready]:
        if any(len(p.waveform) == 400 for p in prompts):
            raise AudioError("400 samples")
        return [Ready(p, 9) for p in prompts]

    def add(self, key: str, ready: Ready) -> None:
        samples = len(ready.prompt.waveform)
        self.left[key] = [samples, samples % 10]

    def step(self) -> dict[str, Answer]:
        self.stepping.set()
        assert self.go_on.wait(60)
        samples = [n for n, _ in self.left.values()]
        if 401 in samples:
            self.left.clear()
            raise SpeakerError("401 samples")
        if 500 in samples:
            raise MemoryError("500 samples")
        self.batches.append(len(samples))
        ended = {k: Answer(str(n), "end", n % 10) for k, (n, left) in self.left.items() if left <= 1}
        self.left = {k: [n, left - 1] for k, (n, left) in self.left.items() if k not in ended}
        return ended

    def abort(self, key: str) -> None:
        self.aborted.append(key)
        self.left.pop(key, None)

    def close(self) -> None:
        self.closed = True


@pytest.fixture
def engine() -> Counting:
    return Counting()


def test_everyone_gets_their_own_answer(engine: Counting):
    with Requests(engine) as requests, ThreadPoolExecutor(8) as clients:
        counts = list(range(1000, 1100))
        answers = list(clients.map(lambda n: requests.submit(prompt(n)).answer.result(60), counts))
        assert [a.text for a in answers] == [str(n) for n in counts]
        assert len(requests) == 0
    assert engine.closed


def test_later_requests_join_the_batch(engine: Counting):
    engine.go_on.clear()
    with Requests(engine) as requests:
        first = requests.submit(prompt(1009))
        assert engine.stepping.wait(60)
        second = requests.submit(prompt(1001))
        while not requests._ready.qsize():  # until it is prepared
            time.sleep(0.01)
        engine.go_on.set()
        assert (first.answer.result(60).text, second.answer.result(60).text) == ("1009", "1001")
    assert engine.batches[0] == 1
    assert len(engine.batches) == 9  # both were answered in the steps of the longer one


@pytest.mark.parametrize(("samples", "error"), [(400, AudioError), (401, SpeakerError)])
def test_a_prompt_that_cannot_be_taken_fails_alone(engine: Counting, samples: int, error: type[Exception]):
    engine.go_on.clear()
    with Requests(engine) as requests:
        asked = [requests.submit(prompt(n)) for n in (1009, samples, 1002)]
        engine.go_on.set()
        assert [asked[0].answer.result(60).text, asked[2].answer.result(60).text] == ["1009", "1002"]
        with pytest.raises(error, match=str(samples)):
            asked[1].answer.result(60)
        assert requests.submit(prompt(1003)).answer.result(60).text == "1003"


def test_a_request_that_is_given_up_leaves_the_engine(engine: Counting):
    engine.go_on.clear()
    with Requests(engine) as requests:
        kept, dropped = requests.submit(prompt(1009)), requests.submit(prompt(1008))
        assert engine.stepping.wait(60)
        dropped.cancel()
        dropped.cancel()
        engine.go_on.set()
        assert kept.answer.result(60).text == "1009"
        kept.cancel()  # too late: nothing happens
        with pytest.raises(CancelledError):
            dropped.answer.result(60)
    assert set(engine.aborted) == {dropped.key}


def test_a_task_that_is_cancelled_gives_its_request_up(engine: Counting):
    engine.go_on.clear()

    async def leave(requests: Requests) -> str:
        request = requests.submit(prompt(1009))
        task = asyncio.ensure_future(asyncio.wrap_future(request.answer))
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        return request.key

    with Requests(engine) as requests:
        key = asyncio.run(leave(requests))
        assert len(requests) == 0
        engine.go_on.set()
        assert requests.submit(prompt(1001)).answer.result(60).text == "1001"
    assert key in engine.aborted


def test_an_engine_that_fails_takes_no_more(engine: Counting, caplog: pytest.LogCaptureFixture):
    engine.go_on.clear()
    with Requests(engine) as requests:
        asked = [requests.submit(prompt(n)) for n in (1009, 500)]
        engine.go_on.set()
        for one in asked:
            with pytest.raises(ModelError, match="the engine failed: MemoryError: 500 samples"):
                one.answer.result(60)
        assert isinstance(requests.failure, MemoryError)
        with pytest.raises(ModelError, match="takes no more requests"):
            requests.submit(prompt(1001))


def test_closing_cancels_what_is_open(engine: Counting):
    engine.go_on.clear()
    requests = Requests(engine)
    asked = [requests.submit(prompt(n)) for n in (1009, 1008)]
    engine.go_on.set()
    requests.close()
    requests.close()
    assert all(one.answer.done() for one in asked)
    with pytest.raises(ModelError, match="it is closed"):
        requests.submit(prompt(1001))
