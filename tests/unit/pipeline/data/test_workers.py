from __future__ import annotations

import hashlib
import math
import threading

import pytest

from pipeline.data.workers import owned, until_quiet


@pytest.fixture
def busy():
    """A thread that computes without the GIL until a flag stops it."""
    stop, started = threading.Event(), threading.Event()

    def compute() -> None:
        while not stop.is_set():
            started.set()
            hashlib.pbkdf2_hmac("sha256", b"x", b"y", 20_000)

    thread = threading.Thread(target=compute)
    thread.start()
    assert started.wait(10)
    yield stop
    stop.set()
    thread.join()


def test_quiet_is_when_no_other_thread_runs(busy: threading.Event) -> None:
    timer = threading.Timer(0.3, busy.set)
    timer.start()
    until_quiet(math.inf)
    assert busy.is_set()


def test_waiting_for_quiet_ends_after_its_limit(busy: threading.Event) -> None:
    until_quiet(0.1)
    assert not busy.is_set()


def test_processes_are_started_when_it_is_quiet(busy: threading.Event, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.data.workers.until_quiet", busy.set)
    stopped = []

    def start():
        stopped.append(busy.is_set())
        return iter([1, 2])

    assert list(owned(start)) == [1, 2]
    assert stopped == [True]
