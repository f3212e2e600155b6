"""Connections: a request's head that never ends, and the address."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest

from pipeline.serve.limits import Limits
from tests.support.serving import registered, serving


@pytest.mark.parametrize(("data", "answered"), [(b"", 0), (b"GET /health HT", 0), (b"GET /health HT", 1)])
def test_a_head_that_does_not_end_closes_the_connection(tmp_path: Path, data: bytes, answered: int) -> None:
    """The first head of a connection, or the next."""
    with serving(tmp_path, registered, limits=Limits(headers_seconds=0.3)) as running, running.connect() as connection:
        for _ in range(answered):
            connection.sendall(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n")
            assert connection.recv(4096).startswith(b"HTTP/1.1 200")
        connection.sendall(data)
        while connection.recv(4096):  # times out if the connection is kept
            pass


@pytest.mark.parametrize(
    "data",
    [
        b"GET /\r\n\r\n",
        b"\x16\x03\x01\x02\x00\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: -5\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\n",
    ],
)
def test_what_is_no_http_gets_an_error_of_the_api(tmp_path: Path, data: bytes) -> None:
    with serving(tmp_path, registered) as running, running.connect() as connection:
        connection.sendall(data)
        answer = b""
        while piece := connection.recv(4096):
            answer += piece
    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 400")
    error = json.loads(body[body.index(b"{") : body.rindex(b"}") + 1])["error"]
    assert (error.keys(), error["code"]) == ({"message", "type", "param", "code"}, "invalid_http")


def test_a_busy_connection_is_not_closed(tmp_path: Path) -> None:
    limits = Limits(headers_seconds=0.3)
    with (
        serving(tmp_path, registered, limits=limits, enrol_dir=tmp_path / "p") as running,
        running.connect() as connection,
    ):
        connection.sendall(
            b"PUT /v1/speakers/x HTTP/1.1\r\nHost: x\r\nContent-Type: audio/wav\r\nContent-Length: 5\r\n\r\n"
        )
        time.sleep(0.6)
        connection.sendall(b"hello")
        assert connection.recv(4096).startswith(b"HTTP/1.1 400")  # not audio
