"""Clients of all kinds: slow, greedy, gone, two hundred at once."""

from __future__ import annotations

import json
import socket
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import openai

from pipeline.serve.limits import Limits
from pipeline.transcribe.transcriber import TranscribeOptions
from tests.support.memory import Watch
from tests.support.serving import (
    SHORT,
    Running,
    Slow,
    create,
    part,
    post,
    refused,
    says,
    serving,
    tones,
    wait_until,
    wav,
)


def head(length: int) -> bytes:
    return (
        "POST /v1/audio/transcriptions HTTP/1.1\r\nHost: x\r\nContent-Type: multipart/form-data; boundary=b\r\n"
        f"Content-Length: {length}\r\n\r\n"
    ).encode()


def answer_of(connection: socket.socket) -> tuple[int, dict[str, Any]]:
    """Status and error of what a server sends before it closes the connection."""
    data = b""
    while piece := connection.recv(65536):
        data += piece
    status, _, rest = data.partition(b"\r\n")
    return int(status.split()[1]), json.loads(rest.partition(b"\r\n\r\n")[2])["error"]


def test_ten_gigabytes_are_refused_before_they_are_sent(client: Any, running: Running) -> None:
    with running.connect() as connection:
        connection.sendall(head(10 << 30))
        status, error = answer_of(connection)
    assert (status, error["code"]) == (413, "request_too_large")
    assert refused(client, 413, bytes(5 << 20))["code"] == "request_too_large"
    assert post(running, bytes(20 << 20))[0] == 413  # by a client that reads no answer while it sends


def test_an_upload_longer_than_the_limit_is_cut_off(running: Running) -> None:
    with running.connect() as connection:
        connection.sendall(head(0).replace(b"Content-Length: 0", b"Transfer-Encoding: chunked"))
        connection.sendall(b"%x\r\n" % (1 << 20) + part("file", b"", file=True)[:-2].ljust(1 << 20) + b"\r\n")
        for _ in range(4):
            connection.sendall(b"%x\r\n" % (1 << 20) + bytes(1 << 20) + b"\r\n")
        assert answer_of(connection)[0] == 413
    wait_until(lambda: running.service.active == 0)


def test_an_hour_needs_little_memory(tmp_path: Path) -> None:
    """115 MB of audio; somebody speaks at the end."""
    end, silence = tones(9)[1600:], bytes(1 << 20)
    count = 110
    size = count * len(silence) + 2 * len(end)
    header = bytearray(wav(end)[:44])
    header[4:8], header[40:44] = (36 + size).to_bytes(4, "little"), size.to_bytes(4, "little")
    begin = part("model", b"stand-in") + part("file", bytes(header), file=True)[:-2]
    last = wav(end)[44:] + b"\r\n--b--\r\n"
    with serving(tmp_path, says("hello"), registers=False) as running, running.client() as client:
        create(client, response_format="json")  # loads what is loaded once
        with Watch() as watch, running.connect() as connection:
            connection.settimeout(120)
            length = len(begin) + count * len(silence) + len(last)
            connection.sendall(head(length).replace(b"Host: x", b"Host: x\r\nConnection: close") + begin)
            for _ in range(count):
                connection.sendall(silence)
            connection.sendall(last)
            answer = b""
            while piece := connection.recv(65536):
                answer += piece
    assert answer.startswith(b"HTTP/1.1 200")
    assert b'"text": "hello hello"' in answer
    assert watch.grown < 40 << 20  # bytes; as it is sent it would be 115 MB


def test_a_slow_client_is_cut_off(running: Running) -> None:
    """One byte at a time, and then none."""
    for pause, message in ((0.2, "slower than 1024 bytes per second"), (60.0, "no byte of the upload came for 2 s")):
        with running.connect() as connection:
            connection.sendall(head(1000))
            stop = threading.Event()

            def drip(connection: socket.socket = connection, pause: float = pause, stop: Any = stop) -> None:
                while not stop.wait(pause):
                    try:
                        connection.sendall(b"-")
                    except OSError:
                        return

            dripping = threading.Thread(target=drip)
            dripping.start()
            status, error = answer_of(connection)
            stop.set()
            dripping.join()
        assert (status, error["code"]) == (408, "upload_timeout")
        assert message in error["message"]


def test_a_client_that_leaves_costs_no_more(tmp_path: Path) -> None:
    slow = Slow()
    with serving(tmp_path, slow, batch=2) as running:
        body = part("model", b"stand-in") + part("file", wav(tones(30)), file=True) + b"--b--\r\n"
        with running.connect() as connection:
            connection.sendall(head(len(body)) + body)
            assert slow.begun.wait(30)
            assert running.service.active == 1
        wait_until(lambda: running.service.active == 0)
        with running.connect() as connection:
            connection.sendall(head(len(body)) + body[:100_000])  # and one in the middle of its upload
            wait_until(lambda: running.service.active == 1)
        wait_until(lambda: running.service.active == 0)
        slow.release.set()
        with running.client() as client:
            assert create(client, response_format="json").text
        assert slow.batches == [2, 2]  # of the first, what had been asked before it left
        assert list(running.service.spool.iterdir()) == []


def test_time_is_limited(tmp_path: Path) -> None:
    slow = Slow()
    with serving(tmp_path, slow, limits=Limits(request_seconds=1.0)) as running, running.client() as client:
        error = refused(client, 504)
        assert (error["type"], error["code"]) == ("server_error", "timeout")
        slow.release.set()
        wait_until(lambda: running.service.active == 0)


def test_two_hundred_at_once(tmp_path: Path) -> None:
    """As many as there are places are answered, the others are sent away with the time to come again; none is lost."""
    slow = Slow()
    waits: list[int] = []
    with serving(tmp_path, slow, limits=Limits(requests=20, running=8)) as running:
        with running.client() as client, ThreadPoolExecutor(200) as pool:

            def one(_: int) -> str:
                try:
                    return create(client, response_format="json").text
                except openai.RateLimitError as e:
                    waits.append(int(e.response.headers["Retry-After"]))
                    return str(e.body["code"])

            answers = [pool.submit(one, i) for i in range(200)]
            wait_until(lambda: sum(a.done() for a in answers) >= 180, 60)
            slow.release.set()
            found = [a.result(60) for a in answers]
        assert (found.count("rate_limit_exceeded"), found.count("hello hello")) == (180, 20)
        assert len(waits) == 180
        assert set(waits) <= set(range(1, 61))
        assert max(slow.batches) > 1
        wait_until(lambda: running.service.active == 0)


def test_requests_share_a_batch(tmp_path: Path) -> None:
    slow = Slow()
    with serving(tmp_path, slow, batch=16, options=TranscribeOptions(SHORT, vad="energy")) as running:
        with running.client() as client, ThreadPoolExecutor(6) as pool:
            answers = [pool.submit(create, client) for _ in range(6)]
            wait_until(lambda: running.service.requests.waiting >= 8)
            slow.release.set()
            assert {a.result(60).text for a in answers} == {"hello hello"}
        assert sum(slow.batches) == 12
        assert len(slow.batches) <= 3
