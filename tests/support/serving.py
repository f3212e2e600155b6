"""A server on a free port of this machine, in a thread: real uvicorn, a stand-in for the model."""

from __future__ import annotations

import base64
import io
import json
import socket
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import openai
import pytest
import soundfile

from pipeline.decode.generate import Answer
from pipeline.prompts import Prompt, SpeakerPiece, TextPiece
from pipeline.serve.limits import Limits
from pipeline.serve.people import PeopleFolder
from pipeline.serve.server import Server, bind
from pipeline.serve.service import Service
from pipeline.transcribe.transcriber import TranscribeOptions, Transcriber
from shards.manifests.clips import ClipRule
from shards.sample import SAMPLE_RATE
from shards.voices.extractors import Extractor
from tests.support.speech import PitchExtractor
from tests.support.write_engine import WriteEngine

SHORT = ClipRule((4.0, 6.0), (3.0, 7.0))
Write = Callable[[Sequence[Prompt]], list[Answer]]


class TonesExtractor(PitchExtractor):
    """Tells tones apart as clips; windows within them all sound alike."""

    def embed_features(self, features: Sequence[np.ndarray]) -> np.ndarray:
        return np.tile(np.eye(1, self.dim, dtype=np.float32), (len(features), 1))


def says(text: str) -> Write:
    """A model that always answers the same."""
    return lambda prompts: [Answer(text, "end", len(text)) for _ in prompts]


def registered(prompts: Sequence[Prompt]) -> list[Answer]:
    """A model that gives a turn to each registered person, or to ``spk0``."""
    answers = []
    for prompt in prompts:
        texts = [p.text if isinstance(p, TextPiece) else "" for p in prompt.pieces]
        names = [texts[i - 2] for i, p in enumerate(prompt.pieces) if isinstance(p, SpeakerPiece)] or ["spk0"]
        answers.append(Answer("\n".join(f"{name}: hello" for name in names), "end", 3))
    return answers


class Slow:
    """A model that answers when it is released; before that, it holds the first batch."""

    def __init__(self, write: Write = registered) -> None:
        self.write = write
        self.begun, self.release = threading.Event(), threading.Event()
        self.batches: list[int] = []

    def __call__(self, prompts: Sequence[Prompt]) -> list[Answer]:
        self.batches.append(len(prompts))
        self.begun.set()
        assert self.release.wait(60)
        return self.write(prompts)


def wait_until(true: Callable[[], bool], seconds: float = 30.0) -> None:
    """Wait until a condition holds."""
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "it never came to be"
        time.sleep(0.01)


def tones(seconds: float, pitch: float = 300.0) -> np.ndarray:
    """Beeps of a second with pauses of half a second: speech, for the detector ``energy``."""
    t = np.arange(round(seconds * SAMPLE_RATE)) / SAMPLE_RATE
    return (0.3 * np.sin(2 * np.pi * pitch * t) * (t % 1.5 < 1.0)).astype(np.float32)


def wav(wave: np.ndarray, kind: str = "WAV", subtype: str = "PCM_16") -> bytes:
    """A file's bytes."""
    buffer = io.BytesIO()
    soundfile.write(buffer, wave, SAMPLE_RATE, format=kind, subtype=subtype)
    return buffer.getvalue()


def data_url(wave: np.ndarray) -> str:
    """A reference as OpenAI's clients send it."""
    return f"data:audio/wav;base64,{base64.b64encode(wav(wave)).decode()}"


def fetch(url: str, method: str = "GET", data: bytes | None = None, **headers: str) -> tuple[int, Any]:
    """Status and body of an answer, whatever the status: JSON, or text."""
    request = urllib.request.Request(url, data=data, headers=headers, method=method)
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:
            status, kind, body = answer.status, answer.headers["Content-Type"], answer.read()
    except urllib.error.HTTPError as e:
        status, kind, body = e.code, e.headers["Content-Type"], e.read()
    return status, json.loads(body) if kind == "application/json" else body.decode()


class Running:
    """A server that runs."""

    def __init__(self, service: Service, server: Server, port: int) -> None:
        self.service, self.server, self.port = service, server, port
        self.url = f"http://127.0.0.1:{port}"

    def connect(self) -> socket.socket:
        """A connection for bytes that no client would send."""
        return socket.create_connection(("127.0.0.1", self.port), timeout=20)

    def client(self, **options: Any) -> Any:
        """The official client, which repeats nothing."""
        import openai

        return openai.OpenAI(
            **{"base_url": f"{self.url}/v1", "api_key": "not-asked-for", "max_retries": 0, "timeout": 60} | options
        )


@contextmanager
def serving(
    folder: Path,
    write: Write,
    *,
    options: TranscribeOptions | None = None,
    limits: Limits | None = None,
    extractor: Callable[[], Extractor] = TonesExtractor,
    registers: bool = True,
    cache: Path | None = None,
    enrol_dir: Path | None = None,
    batch: int = 8,
    reads_context: bool = False,
    **door: Any,
) -> Iterator[Running]:
    """Run a server; `door` is its key and origins."""
    limits = limits or Limits()
    options = options or TranscribeOptions(SHORT, vad="energy")
    transcriber = Transcriber(write, extractor, options, model="stand-in", registers=registers, cache=cache)
    people = None
    if enrol_dir is not None:
        people = PeopleFolder(enrol_dir, transcriber.extractor.id, transcriber.extractor.sha256, limits.people)
    spool = folder / "spool"
    spool.mkdir(exist_ok=True)
    service = Service(
        transcriber, WriteEngine(write), ["stand-in", "whisper-1"], spool, limits, people, batch, reads_context
    )
    server, listener = Server(service, **door), bind("127.0.0.1", 0)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
    thread.start()
    try:
        end = time.monotonic() + 60
        while not server.started:
            assert thread.is_alive()
            assert time.monotonic() < end
            time.sleep(0.01)
        yield Running(service, server, listener.getsockname()[1])
    finally:
        server.should_exit = True
        thread.join(60)
        service.close()
        listener.close()


TALK = wav(tones(9))
LIMITS = Limits(
    upload_bytes=4 << 20, reference_bytes=2 << 20, hours=60 / 3600, people=6, idle_seconds=2.0, grace_seconds=0.5
)


def create(client: Any, audio: bytes = TALK, **fields: Any) -> Any:
    """Ask for a transcription."""
    fields = {"model": "stand-in", "response_format": "diarized_json"} | fields
    return client.audio.transcriptions.create(file=("secret-name.wav", audio), **fields)


def refused(client: Any, status: int, audio: bytes = TALK, **fields: Any) -> dict[str, Any]:
    """The error of a request, checked for OpenAI's shape."""
    with pytest.raises(openai.APIStatusError) as error:
        create(client, audio, **fields)
    assert error.value.status_code == status
    assert error.value.body.keys() == {"message", "type", "param", "code"}
    return error.value.body


def post(running: Running, body: bytes, kind: str = "multipart/form-data; boundary=b") -> tuple[int, dict[str, Any]]:
    status, answer = fetch(f"{running.url}/v1/audio/transcriptions", "POST", body, **{"Content-Type": kind})
    return status, answer.get("error", answer)


def part(name: str, value: bytes, file: bool = False) -> bytes:
    head = f'--b\r\nContent-Disposition: form-data; name="{name}"' + ('; filename="a.wav"' if file else "")
    return head.encode() + b"\r\n\r\n" + value + b"\r\n"
