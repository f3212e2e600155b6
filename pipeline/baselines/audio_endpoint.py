"""A clip sent to an endpoint of OpenAI's protocol: chat with an audio part, or a transcription with known speakers.

A request is repeated with growing waits, or as long as ``Retry-After`` says, if the server is busy, silent, gone, cuts
its answer or sends something that is not of the protocol. A refusal is final. The key is in no message.
"""

from __future__ import annotations

import base64
import io
import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from pipeline.baselines.http_post import post
from pipeline.baselines.systems import CHAT, System
from shards.errors import ModelError
from shards.sample import SAMPLE_RATE

MOST_REFERENCES = 4  # known speakers of a transcription
REFERENCE_SECONDS = (2.0, 10.0)
_EVENTS = "text/event-stream"


@dataclass(frozen=True)
class Reply:
    """Answer of a system about a clip."""

    text: str
    stop: str = "end"  # "cut": at the limit of tokens
    usage: Mapping[str, Any] = field(default_factory=dict)
    attempts: int = 1


@dataclass
class AudioEndpoint:
    """A system behind an address such as ``https://api.openai.com/v1`` or ``http://localhost:8000/v1``."""

    url: str
    model: str
    system: System
    key: str | None = field(default=None, repr=False)
    references: Mapping[str, bytes] = field(default_factory=dict)  # name → WAV of 2 to 10 s
    most_tokens: int = 8192
    timeout_s: float = 120.0  # for connecting, and between two pieces of an answer
    attempts: int = 6
    sleep: Callable[[float], None] = time.sleep

    def hear(self, wave: np.ndarray, prompt: str) -> Reply:
        """Send (n,) float32 at 16 kHz and a prompt; return what the system wrote.

        Raises:
            ConfigError: the address is invalid.
            ModelError: the server refuses, or gives no whole answer in all attempts.
        """
        if self.system.protocol == CHAT:
            content = [audio_part(wave, self.system.audio_url), {"type": "text", "text": prompt}]
            return self.chat([{"role": "user", "content": content}], self.most_tokens, {"temperature": 0})
        return self._asked(*self._form(wave, prompt))

    def chat(self, messages: Sequence[Mapping[str, Any]], most_tokens: int, sampling: Mapping[str, Any]) -> Reply:
        """Send a conversation; return the answer.

        Raises:
            ConfigError, ModelError: as :meth:`hear`.
        """
        body = {
            "model": self.model, "messages": messages, "max_tokens": most_tokens, **sampling, "stream": True,
            "stream_options": {"include_usage": True},
        }  # fmt: skip
        return self._asked(json.dumps(body).encode(), "application/json")

    def _asked(self, body: bytes, content_type: str) -> Reply:
        """Send a request, again if it fails in a way that may pass."""
        why = ""
        for attempt in range(self.attempts):
            answer = post(self.url, self.system.protocol, body, self.key, self.timeout_s, content_type)
            if answer.status == 200:
                try:
                    reply = self._read(answer.text, answer.content_type)
                    return Reply(reply.text, reply.stop, reply.usage, attempt + 1)
                except (ValueError, LookupError, TypeError, AttributeError) as error:
                    why = f"answered {answer.text[:200]!r}, not in the protocol of {self.system.protocol} ({error})"
            else:
                why = answer.why
                if answer.refused:
                    break
            if attempt + 1 < self.attempts:
                self.sleep(answer.wait_s(attempt))
        raise ModelError(f"{self.url} gave no answer of {self.model}: {why}")

    def _form(self, wave: np.ndarray, prompt: str) -> tuple[bytes, str]:
        import urllib3

        fields: list[tuple[str, Any]] = [
            ("model", self.model), ("response_format", self.system.response_format), ("temperature", "0"),
            ("chunking_strategy", "auto"), ("file", ("clip.wav", wav(wave), "audio/wav")),
        ]  # fmt: skip
        if prompt:
            fields.append(("prompt", prompt))
        for name, sound in self.references.items():
            fields.append(("known_speaker_names[]", name))
            data = f"data:audio/wav;base64,{base64.b64encode(sound).decode()}"
            fields.append(("known_speaker_references[]", data))
        return urllib3.encode_multipart_formdata(fields)

    def _read(self, text: str, kind: str) -> Reply:
        """Read an answer: one JSON, or events."""
        if self.system.protocol != CHAT:
            body = json.loads(text)
            if self.system.response_format == "json":
                return Reply(str(body["text"]), usage=body.get("usage") or {})
            if "segments" not in body and "text" not in body:
                raise ValueError("neither segments nor text")
            return Reply(text, usage=body.get("usage") or {})
        events = [json.loads(text)] if _EVENTS not in kind else _events(text)
        choices = [e["choices"][0] for e in events if e.get("choices")]
        said = [(c.get("delta") or c.get("message") or {}).get("content") for c in choices]
        ends = [c["finish_reason"] for c in choices if c.get("finish_reason")]
        if not ends:
            raise ValueError("it has no end")
        usage: dict[str, Any] = next((e["usage"] for e in reversed(events) if e.get("usage")), {})
        return Reply("".join(filter(None, said)), "cut" if ends[-1] == "length" else "end", usage)


def audio_part(wave: np.ndarray, url: bool) -> dict[str, Any]:
    """Return (n,) float32 at 16 kHz as a part of a message: ``audio_url`` (vLLM) or ``input_audio`` (OpenAI)."""
    sound = base64.b64encode(wav(wave)).decode()
    if url:
        return {"type": "audio_url", "audio_url": {"url": f"data:audio/wav;base64,{sound}"}}
    return {"type": "input_audio", "input_audio": {"data": sound, "format": "wav"}}


def _events(text: str) -> list[dict[str, Any]]:
    """Parse server-sent events."""
    lines = (line[5:].strip() for line in text.splitlines() if line.startswith("data:"))
    return [json.loads(line) for line in lines if line and line != "[DONE]"]


def wav(wave: np.ndarray) -> bytes:
    """Return (n,) float32 at 16 kHz as a WAV file of 16 bits."""
    import soundfile

    buffer = io.BytesIO()
    soundfile.write(buffer, wave, SAMPLE_RATE, format="WAV", subtype="PCM_16")
    return buffer.getvalue()
