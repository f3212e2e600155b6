"""The end of a drain: every request that is left, wherever it is, gets 503 in OpenAI's shape."""

from __future__ import annotations

import json
import logging
import socket
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import openai
import pytest
from websockets.sync.client import connect

from pipeline.decode.generate import Answer
from pipeline.prompts import Prompt
from pipeline.serve.errors import of_exception
from pipeline.serve.limits import Limits
from shards.errors import StoppingError, StorageError
from tests.support.serving import TALK, Running, Slow, create, part, registered, serving, tones, wait_until

SHORT = Limits(drain_seconds=0.3, running=1)
BODY = part("model", b"stand-in") + part("file", TALK, file=True) + b"--b--\r\n"


@contextmanager
def held(folder: Path) -> Iterator[tuple[Running, Slow]]:
    """A server whose model holds the first batch until the end of the test."""
    slow = Slow()
    with serving(folder, slow, limits=SHORT) as running:
        try:
            yield running, slow
        finally:
            slow.release.set()


def raw(running: Running, body: bytes, length: int) -> socket.socket:
    connection = running.connect()
    head = f"POST /v1/audio/transcriptions HTTP/1.1\r\nHost: x\r\nContent-Length: {length}\r\n"
    connection.sendall(f"{head}Content-Type: multipart/form-data; boundary=b\r\n\r\n".encode() + body)
    return connection


def answer_of(connection: socket.socket) -> tuple[bytes, dict[str, Any]]:
    """Head and error of an answer."""
    data = b""
    while piece := connection.recv(65536):
        data += piece
    head, _, body = data.partition(b"\r\n\r\n")
    return head, json.loads(body)["error"]


def test_requests_that_are_left_are_asked_to_come_again(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """One request in the model, one that waits for a thread, one in the middle of its upload."""
    caplog.set_level(logging.INFO)
    with held(tmp_path) as (running, slow):
        first = raw(running, BODY, len(BODY))
        assert slow.begun.wait(30)
        others = [raw(running, BODY, len(BODY)), raw(running, BODY[:5000], len(BODY))]
        wait_until(lambda: running.service.active == 3)
        running.server.drain()
        for connection in (first, *others):
            head, error = answer_of(connection)
            assert head.startswith(b"HTTP/1.1 503")
            assert b"\r\nretry-after: 5" in head.lower()
            assert (error["code"], error["type"], error["param"]) == ("stopping", "server_error", None)
        slow.release.set()
        wait_until(lambda: running.service.active == 0)
    assert "Exception in ASGI application" not in caplog.text


def test_a_stream_and_a_live_session_end_with_the_error(tmp_path: Path) -> None:
    slow = Slow()

    def write(prompts: Sequence[Prompt]) -> list[Answer]:
        """Answer the first chunk, and hold the second."""
        return slow(prompts) if slow.batches else (slow.batches.append(0) or registered(prompts))

    with serving(tmp_path, write, limits=Limits(drain_seconds=0.3)) as running, running.client() as client:
        stream = create(client, stream=True)
        next(iter(stream))
        assert slow.begun.wait(30)
        with connect(running.url.replace("http", "ws") + "/v1/audio/transcriptions/live") as live:
            live.send((tones(9) * 32767).astype("<i2").tobytes())
            assert json.loads(live.recv(30))["type"] == "ready"
            running.server.drain()
            with pytest.raises(openai.APIError, match="stopping"):
                list(stream)
            said = json.loads(live.recv(30))
            assert (said["type"], said["error"]["code"]) == ("error", "stopping")
            with pytest.raises(Exception, match="1012"):
                live.recv(30)
        slow.release.set()


def test_a_second_signal_ends_at_once(tmp_path: Path) -> None:
    slow = Slow()
    with serving(tmp_path, slow, limits=Limits(drain_seconds=600)) as running:
        connection = raw(running, BODY, len(BODY))
        assert slow.begun.wait(30)
        running.server.handle_exit(15, None)
        running.server.handle_exit(15, None)
        assert answer_of(connection)[0].startswith(b"HTTP/1.1 503")
        slow.release.set()


def test_a_request_that_the_engine_drops_at_its_end(tmp_path: Path) -> None:
    with held(tmp_path) as (running, slow), running.client() as client, ThreadPoolExecutor(1) as pool:
        asked = pool.submit(create, client)
        assert slow.begun.wait(30)
        closing = threading.Thread(target=running.service.requests.close)
        closing.start()
        with pytest.raises(openai.InternalServerError) as error:
            asked.result(30)
        assert (error.value.status_code, error.value.body["code"]) == (503, "stopping")
        assert error.value.response.headers["Retry-After"] == "5"
        slow.release.set()
        closing.join()


def test_answers_to_errors_of_the_machine_name_no_path() -> None:
    assert of_exception(StoppingError("x"), {}).status == 503
    answer = of_exception(StorageError("/secret/folder: No space left"), {})
    assert (answer.status, answer.code) == (500, "storage_error")
    assert "secret" not in answer.message
