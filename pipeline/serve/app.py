"""Routes of the API, with the names, forms and errors of OpenAI's."""

from __future__ import annotations

import asyncio
import json
import secrets
import time
from collections.abc import AsyncIterator
from dataclasses import replace
from logging import getLogger
from pathlib import Path
from typing import Any

from fastapi import FastAPI, Request, WebSocket
from fastapi.responses import JSONResponse, Response, StreamingResponse
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from pipeline.decode.requests import where
from pipeline.serve.errors import ApiError, invalid, of_exception
from pipeline.serve.jobs import Cancelled, Job
from pipeline.serve.live import LiveSession
from pipeline.serve.people import KnownVoice
from pipeline.serve.replies import Events, done, render, warnings_header
from pipeline.serve.request import TranscriptionRequest, check_people
from pipeline.serve.service import Service
from pipeline.serve.upload import declared, read_body, read_form
from pipeline.transcribe.transcript import Transcript

LEFT = 499  # the client left; seen in figures and the log only
LIVE = "/v1/audio/transcriptions/live"
SPEAKER = "/v1/speakers/{name:path}"

logger = getLogger(__name__)


def build_app(service: Service) -> FastAPI:
    """Build the application. It loads nothing from the network, so it has no page of documentation."""
    app = FastAPI(title="SpeakerLM", docs_url=None, redoc_url=None, openapi_url=None)
    routes = _Routes(service)
    app.post("/v1/audio/transcriptions")(routes.transcribe)
    app.get("/v1/models")(routes.models)
    app.get("/v1/models/{name:path}")(routes.model)
    app.get("/v1/speakers")(routes.speakers)
    app.put(SPEAKER)(routes.put_speaker)
    app.delete(SPEAKER)(routes.delete_speaker)
    app.get("/health")(routes.health)
    app.get("/metrics")(routes.metrics)
    app.websocket(LIVE)(routes.live)
    app.exception_handler(ApiError)(_answer)
    app.exception_handler(HTTPException)(_http_error)
    return app


async def _answer(_: Request, error: Exception) -> Response:
    found = of_exception(error, {})
    return JSONResponse(found.body, found.status, found.all_headers)


async def _http_error(request: Request, error: Exception) -> Response:
    """Answer a path or method that does not exist."""
    assert isinstance(error, HTTPException)
    code = {404: "not_found", 405: "method_not_allowed"}.get(error.status_code, "invalid_request")
    return await _answer(
        request, ApiError(error.status_code, str(error.detail), code, headers=dict(error.headers or {}))
    )


class _Routes:
    """Handlers of one service."""

    def __init__(self, service: Service) -> None:
        self.service = service
        self._started = int(time.time())

    # -------------------------------------------------------------------------------------------------- transcriptions

    async def transcribe(self, request: Request) -> Response:
        """``POST /v1/audio/transcriptions``."""
        service, begin = self.service, time.monotonic()
        job = service.admit(declared(request.headers, service.limits))
        try:
            kind = request.headers.get("content-type", "")
            form = await job.unless_stopped(read_form(kind, request.stream(), job.folder, service.limits))
            asked = TranscriptionRequest.of(
                form, service.names, service.registers, service.limits, service.reads_context, service.context
            )
            job.start(service.submit, lambda: service.transcribe(job, asked))
            if asked.stream:
                await job.first(request.receive)
                return StreamingResponse(
                    self._events(job, asked), media_type="text/event-stream", headers={"Cache-Control": "no-cache"}
                )
            transcript: Transcript = await job.result(request.receive)
        except asyncio.CancelledError:
            job.abandon()
            raise
        except Exception as e:  # noqa: BLE001 - the client gets every error
            return self._failed(job, e)
        service.took(time.monotonic() - begin)
        body, media = render(transcript, asked.response_format, asked.language)
        headers = {} if media == "application/json" else warnings_header(transcript.warnings)
        return Response(body, media_type=media, headers=headers)

    def _failed(self, job: Job, error: Exception) -> Response:
        """Give up a job; return its answer."""
        job.abandon()
        if isinstance(error, (ClientDisconnect, Cancelled)):
            self.service.metrics.cancelled.inc()
            return Response(status_code=LEFT)
        answer = of_exception(error, job.names)
        if answer.status == 500:
            logger.error("a request failed: %s", where(error))
        if answer.status == 504:
            self.service.metrics.cancelled.inc()
        return JSONResponse(answer.body, answer.status, answer.all_headers)

    async def _events(self, job: Job, asked: TranscriptionRequest) -> AsyncIterator[str]:
        """Yield the server-sent events of a streamed answer."""
        events, begin = Events(asked.response_format == "diarized_json"), time.monotonic()
        try:
            async for found in job.events():
                if found is None:
                    yield ": waiting\n\n"
                    continue
                for event in events.of(found):
                    yield _frame(event)
            yield _frame(done(await job.result()))
            self.service.took(time.monotonic() - begin)
        except asyncio.CancelledError:
            self.service.metrics.cancelled.inc()
            raise
        except Exception as e:  # noqa: BLE001 - the status has been sent: the error is an event
            answer = of_exception(e, job.names)
            if answer.status == 500:
                logger.error("a streamed request failed: %s", where(e))
            yield _frame(answer.body)
        yield "data: [DONE]\n\n"

    async def live(self, socket: WebSocket) -> None:
        """``WS /v1/audio/transcriptions/live``; see :mod:`pipeline.serve.live`."""
        try:
            job = self.service.admit_live()
        except ApiError as e:
            await socket.send_denial_response(JSONResponse(e.body, e.status, e.all_headers))
            return
        try:
            await socket.accept()
            await LiveSession(self.service, job, socket).run()
        finally:
            job.abandon()

    # -------------------------------------------------------------------------------------------------------- speakers

    async def put_speaker(self, name: str, request: Request) -> Response:
        """``PUT /v1/speakers/NAME``: a clip as body, or a form with one or more parts ``file``."""
        service = self.service
        service.folder_of_people()
        check_people([name], 0, service.limits)
        limits = replace(service.limits, upload_bytes=min(service.limits.upload_bytes, service.limits.reference_bytes))
        job = service.admit(declared(request.headers, limits))
        try:
            clips = await job.unless_stopped(self._clips(job, request, limits))
            job.start(service.submit, lambda: service.put_speaker(job, name, clips))
            person, new, warnings = await job.result(request.receive)
        except asyncio.CancelledError:
            job.abandon()
            raise
        except Exception as e:  # noqa: BLE001 - the client gets every error
            return self._failed(job, e)
        return JSONResponse(_speaker(person) | {"warnings": list(warnings)}, 201 if new else 200)

    async def _clips(self, job: Job, request: Request, limits: Any) -> list[Path]:
        kind = request.headers.get("content-type", "")
        if kind.lower().startswith("multipart/form-data"):
            clips = (await read_form(kind, request.stream(), job.folder, limits)).files.get("file", [])
        else:
            clips = [job.folder / secrets.token_hex(8)]
            await read_body(request.stream(), clips[0], limits)
        job.names |= {clip: "file" if len(clips) == 1 else f"file[{i}]" for i, clip in enumerate(clips)}
        if not clips or not all(clip.stat().st_size for clip in clips):
            raise invalid("no clip of the voice: send audio as the body, or in parts 'file' of a form", "file")
        return clips

    async def speakers(self) -> Response:
        """``GET /v1/speakers``."""
        people = self.service.folder_of_people().listed()
        return JSONResponse({"object": "list", "data": [_speaker(p) for p in people]})

    async def delete_speaker(self, name: str) -> Response:
        """``DELETE /v1/speakers/NAME``."""
        if not self.service.folder_of_people().delete(name):
            raise ApiError(404, f"{name!r} is not enrolled", "speaker_not_found", "name")
        return JSONResponse({"object": "speaker", "name": name, "deleted": True})

    # ---------------------------------------------------------------------------------------------------------- server

    async def models(self) -> Response:
        """``GET /v1/models``."""
        return JSONResponse({"object": "list", "data": [self._model(name) for name in self.service.names]})

    async def model(self, name: str) -> Response:
        """``GET /v1/models/NAME``."""
        if name not in self.service.names:
            raise ApiError(404, f"the model {name!r} is not served here", "model_not_found", "model")
        return JSONResponse(self._model(name))

    def _model(self, name: str) -> dict[str, Any]:
        return {"id": name, "object": "model", "created": self._started, "owned_by": "speakerlm"}

    async def health(self) -> Response:
        """``GET /health``: 200 while requests are taken and the model answers."""
        if self.service.healthy:
            return JSONResponse({"status": "ok"})
        status = "stopping" if self.service.draining.is_set() else "failing"
        return JSONResponse({"status": status}, 503)

    async def metrics(self) -> Response:
        """``GET /metrics`` for Prometheus."""
        return Response(self.service.metrics.text(), media_type=self.service.metrics.media_type)


def _speaker(person: KnownVoice) -> dict[str, Any]:
    return {"object": "speaker", "name": person.name, "created": person.created, "extractor": person.extractor}


def _frame(event: dict[str, Any]) -> str:
    return f"data: {json.dumps(event, ensure_ascii=False)}\n\n"
