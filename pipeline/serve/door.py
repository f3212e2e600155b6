"""Outermost layer of the server: key, origin, the log line and figures of each request, and errors without content.

The log holds method, route, status and seconds. Paths are not in it, since they hold people's names; neither are the
messages of unexpected exceptions, which may hold what a client sent.
"""

from __future__ import annotations

import asyncio
import hmac
import json
import time
from collections.abc import Collection
from contextlib import suppress
from logging import getLogger

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from pipeline.decode.requests import where
from pipeline.serve.app import LEFT
from pipeline.serve.errors import ApiError
from pipeline.serve.metrics import Metrics

OPEN = ("/health",)  # paths that need no key
TOO_SLOW = 408
# Of the body of a request that is refused: bytes and seconds that are read nevertheless, and the pause that ends it.
DISCARDED_BYTES, DISCARDED_S, PAUSE_S = 64 << 20, 5.0, 0.5

logger = getLogger(__name__)


class Door:
    """An ASGI application around another."""

    def __init__(
        self,
        app: ASGIApp,
        metrics: Metrics,
        key: str | None = None,
        origins: Collection[str] = (),
    ) -> None:
        """Wrap an application.

        Args:
            key: that clients send as ``Authorization: Bearer KEY``; None: no key is asked for.
            origins: of pages in a browser that may use the server, as well as its own.
        """
        self._app, self._metrics, self._key, self._origins = app, metrics, key, origins

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a request."""
        if scope["type"] not in ("http", "websocket"):
            return
        begin, status = time.monotonic(), 0
        body = _Body(scope, receive)

        async def sent(message: Message) -> None:
            nonlocal status
            status = _status(message) or status
            if message["type"] == "http.response.start" and status >= 400 and status != TOO_SLOW:
                await body.discard()
            await send(message)

        try:
            if (refusal := self._refusal(scope)) is not None:
                await _refuse(scope, sent, refusal)
            else:
                await self._app(scope, body.receive, sent)
        except Exception as e:  # noqa: BLE001 - the server's own log would hold its message
            logger.error("internal error: %s", where(e))
            if not status:
                await _refuse(scope, sent, ApiError(500, "internal error; see the server's log", "internal_error"))
        seconds = time.monotonic() - begin
        route = getattr(scope.get("route"), "path", "other")
        self._metrics.requests.labels(route, str(status or LEFT)).inc()
        self._metrics.seconds.labels(route).observe(seconds)
        method = scope.get("method", "WS")
        logger.info("%s %s %d, %.2f s", method, route, status or LEFT, seconds)

    def _refusal(self, scope: Scope) -> ApiError | None:
        """Return why a request is refused, if it is."""
        headers = {k.decode("latin-1").lower(): v.decode("latin-1") for k, v in scope["headers"]}
        origin = headers.get("origin")
        if origin and origin.partition("://")[2] != headers.get("host") and origin not in self._origins:
            return ApiError(403, "requests of other sites' pages are refused; see --allow-origin", "foreign_origin")
        if self._key is None or scope["path"] in OPEN:
            return None
        given = headers.get("authorization", "")
        if hmac.compare_digest(given.encode(), f"Bearer {self._key}".encode()):
            return None
        message = "the API key is wrong" if given else "an API key is needed: Authorization: Bearer KEY"
        return ApiError(401, message, "invalid_api_key", headers={"WWW-Authenticate": "Bearer"})


class _Body:
    """The body of a request, of which the rest can be discarded.

    Many clients see a broken connection in place of an early answer if it is closed while they send.
    """

    def __init__(self, scope: Scope, receive: Receive) -> None:
        self._receive = receive
        # A client that waits to be asked for its body needs no more than the answer.
        asks_first = any(k.lower() == b"expect" for k, _ in scope["headers"])
        self._ended = scope["type"] != "http" or asks_first

    async def receive(self) -> Message:
        """Return the next message."""
        message = await self._receive()
        self._ended = self._ended or not message.get("more_body", False)
        return message

    async def discard(self) -> None:
        """Read on while the client sends, for a while."""
        left, end = DISCARDED_BYTES, time.monotonic() + DISCARDED_S
        with suppress(TimeoutError):
            while not self._ended and left > 0 and time.monotonic() < end:
                message = await asyncio.wait_for(self.receive(), PAUSE_S)
                left -= len(message.get("body", b""))


def _status(message: Message) -> int:
    """Return the status that a message tells; 0: none."""
    if message["type"] in ("http.response.start", "websocket.http.response.start"):
        return int(message["status"])
    return 101 if message["type"] == "websocket.accept" else 0


async def _refuse(scope: Scope, send: Send, error: ApiError) -> None:
    prefix = "websocket.http" if scope["type"] == "websocket" else "http"
    headers = {"Content-Type": "application/json"} | error.all_headers
    raw = [(k.lower().encode(), v.encode()) for k, v in headers.items()]
    await send({"type": f"{prefix}.response.start", "status": error.status, "headers": raw})
    await send({"type": f"{prefix}.response.body", "body": json.dumps(error.body).encode()})
