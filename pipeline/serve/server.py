"""Uvicorn with a drain on SIGTERM, and with a limit on the time that a request's head may take."""

from __future__ import annotations

import asyncio
import json
import socket
import time
from collections.abc import Callable, Collection
from contextlib import suppress
from logging import getLogger
from types import FrameType
from typing import Any

import h11
import uvicorn
from uvicorn.protocols.http.h11_impl import STATUS_PHRASES, H11Protocol

from pipeline.serve.app import build_app
from pipeline.serve.door import Door
from pipeline.serve.errors import invalid
from pipeline.serve.service import Service

LAST_ANSWERS_S = 10  # after the drain, for the answers of requests that are given up

logger = getLogger(__name__)


class Server(uvicorn.Server):
    """Stops on the first signal when the requests in it are answered, and on the second at once.

    While it drains, new requests get 503 and live sessions end with what they have heard; so do those that are left at
    its end.
    """

    def __init__(
        self,
        service: Service,
        key: str | None = None,
        origins: Collection[str] = (),
        ready: Callable[[], None] = lambda: None,
    ) -> None:
        """Build the application of a service.

        Args:
            key: that clients must send; None: no key is asked for.
            origins: of pages in a browser that may use the server, as well as its own.
            ready: called when connections are accepted.
        """
        self._service, self._ready = service, ready
        self._end = 0.0  # of the drain
        self._given_up = False
        limits = service.limits
        super().__init__(
            uvicorn.Config(
                Door(build_app(service), service.metrics, key, origins),
                http=protocol(limits.headers_seconds),
                ws="websockets-sansio",
                loop="asyncio",
                lifespan="off",
                log_config=None,
                access_log=False,  # it would hold people's names
                server_header=False,
                proxy_headers=False,
                timeout_graceful_shutdown=LAST_ANSWERS_S,
            )
        )

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Begin the drain, or end it."""
        if not self._service.draining.is_set():
            self.drain()
        else:
            self.force_exit = True  # seen at the next tick

    def drain(self) -> None:
        """Take no more requests, and stop when those in the server are answered."""
        logger.info("stopping: %d requests are being answered", self._service.active)
        self._end = time.monotonic() + self._service.limits.drain_seconds
        self._service.draining.set()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Begin to accept connections."""
        await super().startup(sockets)
        self._ready()

    async def on_tick(self, counter: int) -> bool:
        """Return whether it is time to stop; called ten times per second."""
        if self._service.draining.is_set():
            if self._given_up or self._service.active == 0:
                self.should_exit = True
            elif self.force_exit or time.monotonic() > self._end:
                self._service.give_up()  # sent until the next tick
                self._given_up = True
        return await super().on_tick(counter)


def bind(host: str, port: int) -> socket.socket:
    """Return a bound socket; uvicorn listens on it when the model is loaded.

    Raises:
        OSError: the address is in use or not of this machine.
    """
    family, kind, proto, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[
        0
    ]
    found = socket.socket(family, kind, proto)
    try:
        found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        found.bind(address)
    except OSError:
        found.close()
        raise
    return found


def protocol(seconds: float) -> type[asyncio.Protocol]:
    """Return uvicorn's HTTP protocol, which closes a connection whose request's head takes longer than this."""

    class TimedHead(H11Protocol):
        """HTTP with a timer while no request is being answered and bytes of one have come."""

        def send_400_response(self, msg: str) -> None:
            """Answer bytes that are no HTTP request."""
            error = invalid("these bytes are no HTTP request that can be read", code="invalid_http")
            headers = [(b"content-type", b"application/json"), (b"connection", b"close")]
            body = json.dumps(error.body).encode()
            head = h11.Response(status_code=error.status, headers=headers, reason=STATUS_PHRASES[error.status])
            with suppress(h11.LocalProtocolError):  # an answer has begun
                for event in (head, h11.Data(data=body), h11.EndOfMessage()):
                    self.transport.write(self.conn.send(event))
            self.transport.close()

        _timer: asyncio.TimerHandle | None = None

        def connection_made(self, transport: Any) -> None:
            super().connection_made(transport)
            self._watch(True)

        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            self._watch(self.cycle is None or self.cycle.response_complete)

        def handle_websocket_upgrade(self, event: Any) -> None:
            self._upgraded = True
            self._watch(False)
            super().handle_websocket_upgrade(event)

        def connection_lost(self, exc: Exception | None) -> None:
            self._watch(False)
            super().connection_lost(exc)

        _upgraded = False

        def _watch(self, waiting: bool) -> None:
            if waiting and self._timer is None and not self._upgraded and not self.transport.is_closing():
                self._timer = self.loop.call_later(seconds, self.transport.close)
            elif not waiting and self._timer is not None:
                self._timer.cancel()
                self._timer = None

    return TimedHead
