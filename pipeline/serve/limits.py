"""Limits of the server: what a client may send, how long it may take, and how many may wait."""

from __future__ import annotations

from dataclasses import dataclass

MIB = 1 << 20


@dataclass(frozen=True)
class Limits:
    """Limits that protect one client from another, and the machine from all."""

    upload_bytes: int = 1024 * MIB  # of a request's body
    field_bytes: int = MIB  # of all form fields of a request that are kept in memory
    reference_bytes: int = 32 * MIB  # of one enrolment clip
    parts: int = 1000  # of a form
    hours: float = 4.0  # of a recording, or of a live session
    people: int = 64  # who are registered in one request, or enrolled
    requests: int = 64  # in the server: uploading, waiting or being transcribed; one more gets 429
    running: int = 8  # of them, transcribed at a time
    live: int = 8  # live sessions
    request_seconds: float = 3600.0  # from the first byte to the last
    idle_seconds: float = 30.0  # without a byte of an upload, or without audio of a live session
    grace_seconds: float = 20.0  # of an upload, before its rate is looked at
    bytes_per_second: float = 1024.0  # least rate of an upload
    headers_seconds: float = 20.0  # until the head of a request has arrived
    drain_seconds: float = 60.0  # after SIGTERM, for requests that are being answered
