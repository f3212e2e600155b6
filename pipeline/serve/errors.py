"""Errors in the shape of OpenAI's API: ``{"error": {"message", "type", "param", "code"}}``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from shards.errors import AudioError, ConfigError, SpeakerError, SpeakerLMError, StoppingError, StorageError

LONGEST = 1000  # characters of a message: it may repeat what a client sent
# What is wrong with a request: class of the error, its code, and the field if the message names none.
OF_THE_REQUEST: tuple[tuple[type[SpeakerLMError], str, str | None], ...] = (
    (AudioError, "invalid_audio", "file"),
    (SpeakerError, "invalid_reference", None),
    (ConfigError, "invalid_request", None),
)


@dataclass
class ApiError(Exception):
    """An answer other than the one that was asked for."""

    status: int
    message: str
    code: str
    param: str | None = None
    retry_after: int | None = None  # seconds
    headers: dict[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        """Return the message."""
        return self.message

    @property
    def body(self) -> dict[str, Any]:
        """JSON of the answer."""
        kind = "server_error" if self.status >= 500 else "invalid_request_error"
        if self.status == 429:
            kind = "rate_limit_error"
        message = self.message if len(self.message) <= LONGEST else f"{self.message[:LONGEST]} …"
        return {"error": {"message": message, "type": kind, "param": self.param, "code": self.code}}

    @property
    def all_headers(self) -> dict[str, str]:
        """Headers of the answer."""
        return self.headers | ({"Retry-After": str(self.retry_after)} if self.retry_after is not None else {})


def invalid(message: str, param: str | None = None, code: str = "invalid_request") -> ApiError:
    """Return an error of status 400."""
    return ApiError(400, message, code, param)


def busy(message: str, retry_after: int) -> ApiError:
    """Return an error of status 429."""
    return ApiError(429, message, "rate_limit_exceeded", retry_after=retry_after)


def stopping() -> ApiError:
    """Return the answer of a server that is ending: another one, or its next start, may take the request."""
    message = "the server is stopping; ask again"
    return ApiError(503, message, "stopping", retry_after=5, headers={"Connection": "close"})


def of_exception(error: Exception, names: Mapping[Path, str]) -> ApiError:
    """Return the answer to an exception. Of one that is not of this project, only its class is shown.

    Args:
        names: files of the request → what a client calls them; no path of the server is in an answer.
    """
    if isinstance(error, ApiError):
        return error
    if not isinstance(error, SpeakerLMError):
        return ApiError(500, f"internal error ({type(error).__name__}); see the server's log", "internal_error")
    if isinstance(error, StoppingError):
        return stopping()
    if isinstance(error, StorageError):  # its message names files of the server
        return ApiError(500, "the server cannot write to its disk; see the server's log", "storage_error")
    message = public(str(error), names)
    param = next((name for name in names.values() if message.startswith(name)), None)
    for kind, code, of in OF_THE_REQUEST:
        if isinstance(error, kind):
            return invalid(message, param or of, code)
    return ApiError(500, message, "model_error")


def public(message: str, names: Mapping[Path, str]) -> str:
    """Return a message with names of parameters in place of paths."""
    for path, name in names.items():
        message = message.replace(str(path), name)
    return message
