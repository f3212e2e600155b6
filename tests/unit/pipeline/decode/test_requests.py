"""Prompts of several requests before one engine; faults and cancellations stay with the request that they belong to."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from pipeline.decode.engine import Ready
from pipeline.decode.generate import Answer
from pipeline.decode.requests import Requests
from pipeline.prompts import Prompt
from shards.errors import AudioError, ModelError, StoppingError
from tests.support.write_engine import WriteEngine


class Left(Exception):
    """A client has gone."""


def prompts(*texts: str) -> list[Prompt]:
    return [Prompt((text,), np.zeros(1)) for text in texts]  # type: ignore[arg-type]


def wait_until(true: Callable[[], bool]) -> None:
    end = time.monotonic() + 60
    while not true():
        assert time.monotonic() < end
        time.sleep(0.005)


class Model:
    """Writes prompts in capitals; its first batch takes until it is released, so that others wait meanwhile."""

    def __init__(self) -> None:
        self.batches: list[list[str]] = []
        self.begun, self.release = threading.Event(), threading.Event()

    def __call__(self, given: Sequence[Prompt]) -> list[Answer]:
        texts = [str(p.pieces[0]) for p in given]
        self.batches.append(texts)
        if len(self.batches) == 1:
            self.begun.set()
            assert self.release.wait(60)
        if "too long" in texts:
            raise ModelError("too long for the LLM")
        if "bug" in texts:
            raise RuntimeError("secret words of a client")
        return [Answer(text.upper(), "end", 1) for text in texts]


class Engine(WriteEngine):
    """Cannot prepare the prompt ``silence``."""

    prepared = 0  # prompts

    def prepare(self, given: Sequence[Prompt]) -> list[Ready]:
        if any(p.pieces[0] == "silence" for p in given):
            raise AudioError("no audio")
        ready = super().prepare(given)
        self.prepared += len(given)
        return ready


class TokenByToken(WriteEngine):
    """Answers each prompt after as many steps as it has letters."""

    def __init__(self) -> None:
        super().__init__(lambda _: [])
        self.go_on = threading.Semaphore(0)  # one step
        self.left: dict[str, list[str]] = {}
        self.together: list[int] = []

    def add(self, key: str, ready: Ready) -> None:
        self.left[key] = list(str(ready.prompt.pieces[0]))

    def step(self) -> dict[str, Answer]:
        assert self.go_on.acquire(timeout=60)
        self.together.append(len(self.left))
        for letters in self.left.values():
            letters.pop()
        ended = [key for key, letters in self.left.items() if not letters]
        return {key: Answer("", "end", 1) for key in ended if self.left.pop(key) == []}

    def abort(self, key: str) -> None:
        super().abort(key)
        self.left.pop(key, None)


@pytest.fixture
def model() -> Model:
    return Model()


@pytest.fixture
def engine(model: Model) -> Engine:
    return Engine(model)


@pytest.fixture
def requests(engine: Engine, model: Model) -> Iterator[Requests]:
    with Requests(engine, places=3) as found:
        yield found
        model.release.set()


@pytest.fixture
def clients() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(8) as pool:
        yield pool


def test_waiting_requests_share_batches_in_turn(
    requests: Requests, engine: Engine, model: Model, clients: ThreadPoolExecutor
) -> None:
    first = clients.submit(requests.ask, prompts("first"))
    assert model.begun.wait(60)
    long = clients.submit(requests.ask, prompts("l1", "l2", "l3", "l4"))
    wait_until(lambda: requests.waiting == 4)
    short = clients.submit(requests.ask, prompts("s1"))
    wait_until(lambda: requests.waiting == 5 and engine.prepared == 6)
    time.sleep(0.2)  # what is prepared is queued a moment later
    model.release.set()
    assert [a.text for a in long.result(60)] == ["L1", "L2", "L3", "L4"]
    assert [a.text for a in short.result(60)] == ["S1"]
    assert [a.text for a in first.result(60)] == ["FIRST"]
    assert model.batches == [["first"], ["l1", "s1", "l2"], ["l3", "l4"]]


def test_an_hour_of_audio_delays_a_clip_by_one_batch(
    requests: Requests, model: Model, clients: ThreadPoolExecutor
) -> None:
    """Whatever was prepared ahead for it."""
    hour = clients.submit(requests.ask, prompts(*map(str, range(60))))
    assert model.begun.wait(60)
    wait_until(lambda: len(requests._queue.turns[0].ready) == 8)
    clip = clients.submit(requests.ask, prompts("clip"))
    wait_until(lambda: len(requests._queue.turns) == 2 and len(requests._queue.turns[1].ready) == 1)
    model.release.set()
    assert [a.text for a in clip.result(60)] == ["CLIP"]
    assert [a.text for a in hour.result(60)] == [str(n) for n in range(60)]
    assert "clip" in model.batches[1]


def test_each_request_gets_its_own_answers(requests: Requests, model: Model, clients: ThreadPoolExecutor) -> None:
    model.release.set()
    asked = [[f"{i}-{j}" for j in range(i % 4)] for i in range(40)]
    found = clients.map(lambda texts: [a.text for a in requests.ask(prompts(*texts))], asked)
    assert list(found) == asked
    assert requests.waiting == 0


@pytest.mark.parametrize(("text", "error"), [("too long", ModelError), ("silence", AudioError), ("bug", RuntimeError)])
def test_a_fault_costs_only_its_request(
    requests: Requests, model: Model, clients: ThreadPoolExecutor, text: str, error: type[Exception]
) -> None:
    first = clients.submit(requests.ask, prompts("first"))
    assert model.begun.wait(60)
    bad = clients.submit(requests.ask, prompts("before", text, "after"))
    good = clients.submit(requests.ask, prompts("good"))
    wait_until(lambda: bad.done() or len(requests._queue.open) == 3)
    model.release.set()
    assert [a.text for a in good.result(60)] == ["GOOD"]
    with pytest.raises(error):
        bad.result(60)
    first.result(60)
    assert requests.alive
    assert requests.ask(prompts("later"))[0].text == "LATER"
    assert requests.faults == 0


def test_three_internal_faults_in_a_row_are_reported(
    requests: Requests, model: Model, caplog: pytest.LogCaptureFixture
) -> None:
    model.release.set()
    for _ in range(3):
        assert requests.alive
        with pytest.raises(RuntimeError):
            requests.ask(prompts("bug"))
    assert not requests.alive
    assert "RuntimeError at test_requests.py:" in caplog.text
    assert "secret" not in caplog.text
    requests.ask(prompts("good"))
    assert requests.alive


def test_one_request_whose_prompts_all_fail_counts_as_one_fault() -> None:
    class Broken(WriteEngine):
        def prepare(self, given: Sequence[Prompt]) -> list[Ready]:
            raise RuntimeError("no memory")

    with Requests(Broken(lambda _: [])) as found:
        with pytest.raises(RuntimeError):
            found.ask(prompts(*"abcdefgh"))
        with pytest.raises(RuntimeError):  # prepared after what was left of the first one
            found.ask(prompts("i"))
        assert found.faults == 2


def test_a_request_is_not_blamed_for_one_that_was_cancelled(clients: ThreadPoolExecutor) -> None:
    first, go_on, together, fail, gone = (threading.Event() for _ in range(5))

    def write(given: Sequence[Prompt]) -> list[Answer]:
        texts = [str(p.pieces[0]) for p in given]
        if texts == ["first"]:
            first.set()
            assert go_on.wait(60)
        if "bug" in texts:
            assert len(texts) == 2
            together.set()
            assert fail.wait(60)
            raise RuntimeError
        return [Answer(text.upper(), "end", 1) for text in texts]

    def check() -> None:
        if gone.is_set():
            raise Left

    with Requests(WriteEngine(write)) as found:
        clients.submit(found.ask, prompts("first"))
        assert first.wait(60)
        bad, good = clients.submit(found.ask, prompts("bug"), check), clients.submit(found.ask, prompts("good"))
        wait_until(lambda: sum(len(a.ready) for a in found._queue.turns) == 2)
        go_on.set()
        assert together.wait(60)
        gone.set()
        with pytest.raises(Left):
            bad.result(60)
        fail.set()
        assert [a.text for a in good.result(60)] == ["GOOD"]


def test_prompts_of_a_cancelled_request_are_not_asked(
    requests: Requests, model: Model, clients: ThreadPoolExecutor
) -> None:
    gone = threading.Event()

    def check() -> None:
        if gone.is_set():
            raise Left

    first = clients.submit(requests.ask, prompts("first"))
    assert model.begun.wait(60)
    left = clients.submit(requests.ask, prompts("a", "b"), check)
    wait_until(lambda: requests.waiting == 2)
    gone.set()
    with pytest.raises(Left):
        left.result(60)
    assert requests.waiting == 0
    model.release.set()
    first.result(60)
    assert requests.ask(prompts("c"))[0].text == "C"
    with pytest.raises(Left):
        requests.ask(prompts("d"), check)
    assert model.batches == [["first"], ["c"]]


def test_requests_join_and_leave_while_others_are_written(clients: ThreadPoolExecutor) -> None:
    engine, gone, seen = TokenByToken(), threading.Event(), []

    def check() -> None:
        if gone.is_set():
            raise Left

    with Requests(engine, places=2, observe=lambda answers, together: seen.append((len(answers), together))) as found:
        long = clients.submit(found.ask, prompts("abcdefgh"))
        wait_until(lambda: len(found._queue.running) == 1)
        engine.go_on.release()
        wait_until(lambda: len(engine.together) == 1)
        left = clients.submit(found.ask, prompts("abcdefgh"), check)
        third = clients.submit(found.ask, prompts("ab"))
        wait_until(lambda: found.waiting + len(found._queue.running) == 3)
        gone.set()
        with pytest.raises(Left):
            left.result(60)
        engine.go_on.release(20)
        assert (len(third.result(60)), len(long.result(60))) == (1, 1)
    assert engine.closed
    assert engine.together[0] == 1
    assert max(engine.together) == 2
    assert seen == [(1, 2), (1, 1)]


def test_closing_ends_what_waits(model: Model, clients: ThreadPoolExecutor) -> None:
    engine = Engine(model)
    found = Requests(engine, places=1)
    asked = [clients.submit(found.ask, prompts("a", "b")) for _ in range(3)]
    assert model.begun.wait(60)
    wait_until(lambda: len(found._queue.open) == 3)
    closing = clients.submit(found.close)
    for one in asked:
        with pytest.raises(StoppingError, match="stopping"):
            one.result(60)
    assert engine.aborted
    model.release.set()
    closing.result(60)
    assert engine.closed
    with pytest.raises(StoppingError, match="stopping"):
        found.ask(prompts("x"))
    found.close()
