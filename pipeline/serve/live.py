"""Near-live transcription by websocket: PCM in, turns as chunks close, with the names that a file of it would get.

The client may begin with ``{"type": "start", "known_speaker_names": [...], "known_speaker_references": [...], "prompt":
"Zoe Li, ZeRO-3"}``, all of them optional; a prompt that the model cannot read is an error. Then come binary messages
with 16 kHz mono PCM of signed 16 bits, little-endian, and at the end ``{"type": "end"}``. The server sends
``{"type": "ready"}``, a ``transcript.text.segment`` for each turn, at last ``transcript.text.done``, or ``{"type":
"error", "error": {...}}``. It reads no faster than it transcribes.
"""

from __future__ import annotations

import asyncio
import json
import time
from contextlib import suppress
from logging import getLogger
from pathlib import Path
from typing import Any

from starlette.websockets import WebSocket, WebSocketDisconnect

from pipeline.decode.requests import where
from pipeline.serve.errors import ApiError, invalid, of_exception, stopping
from pipeline.serve.jobs import Cancelled, Job
from pipeline.serve.live_audio import LiveAudio
from pipeline.serve.replies import Events, done
from pipeline.serve.request import NAMES, check_people, context_of
from pipeline.serve.service import READY, Service
from pipeline.serve.upload import REFERENCES

AHEAD_S = 30.0  # of audio that waits for the model, from which on no more is read
TICK_S = 0.25

NORMAL, POLICY, FAULT, RESTART = 1000, 1008, 1011, 1012  # codes of closing

logger = getLogger(__name__)


class LiveSession:
    """One open websocket."""

    def __init__(self, service: Service, job: Job, socket: WebSocket) -> None:
        """Take an accepted socket."""
        self._service, self._job, self._socket = service, job, socket
        self._audio = LiveAudio()

    async def run(self) -> int:
        """Serve the session to its end; return the code with which it was closed."""
        reading: asyncio.Task[None] | None = None
        try:
            names, references, context, first = await self._begin()
            self._job.start(
                self._service.submit_live,
                lambda: self._service.live(self._job, self._audio, names, references, context),
            )
            reading = asyncio.create_task(self._read(first))
            await self._write()
        except (WebSocketDisconnect, Cancelled):
            return NORMAL
        except Exception as e:  # noqa: BLE001 - the client gets every error
            return await self._fail(e)
        finally:
            self._job.cancelled.set()
            self._audio.end()
            if reading is not None:
                reading.cancel()
        code = RESTART if self._service.draining.is_set() else NORMAL
        await self._socket.close(code)
        return code

    async def _begin(self) -> tuple[list[str], list[Path], tuple[str, ...], bytes]:
        """Return known speakers with their references, the terms of the prompts, and the first audio."""
        message = await self._receive()
        if message.get("bytes") is not None:
            return [], [], self._service.context, bytes(message["bytes"])
        content = _content(message)
        if content.get("type") != "start":
            raise invalid("a session begins with audio, or with a message of type 'start'", "type")
        names, clips = _texts(content, NAMES), _texts(content, REFERENCES)
        check_people(names, len(clips), self._service.limits)
        prompt = _text(content, "prompt")
        context, refused = context_of(prompt, self._service.reads_context, self._service.context)
        if refused:
            raise invalid(refused[0], "prompt", "unsupported_by_model")
        paths = [self._job.folder / f"reference-{i}" for i in range(len(clips))]
        for path, clip in zip(paths, clips, strict=True):
            path.write_text(clip, encoding="utf-8")
        return names, paths, context, b""

    async def _read(self, first: bytes) -> None:
        """Hand audio to the thread until it ends; then wait for the client to leave."""
        ended = False
        try:
            await self._put(first)
            while True:
                message = await self._receive(forever=ended)
                if ended:
                    continue
                if message.get("bytes") is not None:
                    await self._put(bytes(message["bytes"]))
                elif _content(message).get("type") == "end":
                    self._audio.end()
                    ended = True
                else:
                    raise invalid("expected audio, or a message of type 'end'", "type")
        except WebSocketDisconnect:
            self._job.cancelled.set()
            self._audio.end()
        except ApiError as e:
            self._audio.end(e if e.code != "stopping" else None)  # what was heard is transcribed
        except Exception as e:  # noqa: BLE001 - raised in the thread, whose error the client gets
            self._audio.end(e)

    async def _put(self, data: bytes) -> None:
        """Hand audio to the thread, and wait while it has enough.

        Raises:
            ApiError: the session is too long.
        """
        self._audio.put(data)
        hours = self._service.limits.hours
        if self._audio.seconds > hours * 3600:
            raise ApiError(413, f"the session is longer than {hours:g} hours", "too_long")
        while self._audio.waiting_seconds > AHEAD_S and not self._job.cancelled.is_set():
            await asyncio.sleep(TICK_S)

    async def _receive(self, forever: bool = False) -> dict[str, Any]:
        """Return the next message.

        Raises:
            ApiError: none came for too long, or the server stops.
            WebSocketDisconnect: the client left.
        """
        limits = self._service.limits
        coming = asyncio.ensure_future(self._socket.receive())
        end = time.monotonic() + limits.idle_seconds
        try:
            while not (await asyncio.wait({coming}, timeout=TICK_S))[0]:
                if forever:
                    continue
                if self._service.draining.is_set():
                    raise stopping()
                if time.monotonic() > end:
                    raise ApiError(408, f"no audio came for {limits.idle_seconds:g} s", "timeout")
        finally:
            if not coming.done():
                coming.cancel()
        message = coming.result()
        if message["type"] == "websocket.disconnect":
            raise WebSocketDisconnect(message.get("code", NORMAL))
        return dict(message)

    async def _write(self) -> None:
        """Send turns as chunks close, then the end."""
        events = Events(segments=True)
        async for found in self._job.events():
            if found == READY:
                await self._send({"type": "ready", "sample_rate": 16_000})
            elif found is not None:
                for event in events.of(found):
                    if event["type"] == "transcript.text.segment":
                        await self._send(event)
        await self._send(done(await self._job.result()))

    async def _fail(self, error: Exception) -> int:
        answer = of_exception(error, self._job.names)
        if answer.status == 500:
            logger.error("live session: %s", where(error))
        code = FAULT if answer.status >= 500 else POLICY
        code = RESTART if answer.code == "stopping" else code
        with suppress(WebSocketDisconnect, RuntimeError):  # the client may have left
            await self._send({"type": "error", **answer.body})
            await self._socket.close(code)
        return code

    async def _send(self, content: dict[str, Any]) -> None:
        await self._socket.send_text(json.dumps(content, ensure_ascii=False))


def _content(message: dict[str, Any]) -> dict[str, Any]:
    """Return a text message's JSON object."""
    try:
        found = json.loads(message.get("text") or "")
    except ValueError as e:
        raise invalid(f"a text message is not JSON ({e})") from e
    if not isinstance(found, dict):
        raise invalid("a text message is not a JSON object")
    return found


def _texts(content: dict[str, Any], name: str) -> list[str]:
    found = content.get(name) or []
    if not isinstance(found, list) or not all(isinstance(x, str) for x in found):
        raise invalid(f"{name} is not a list of strings", name)
    return found


def _text(content: dict[str, Any], name: str) -> str:
    found = content.get(name) or ""
    if not isinstance(found, str):
        raise invalid(f"{name} is not a text", name)
    return found
