"""Bodies of requests: forms and files, written to a folder on disk as they arrive.

Memory holds a megabyte of a file and the small fields, whatever a client sends. An upload ends with an error when it is
larger than announced or allowed, when no byte comes for a while, or when it stays under a least rate.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from pipeline.serve.errors import ApiError, invalid
from pipeline.serve.limits import MIB, Limits

REFERENCES = "known_speaker_references"
ON_DISK = ("file", REFERENCES)
RAW = (".g722", ".gsm")  # streams without a header, which are known by the file's suffix only
FLUSH = MIB  # bytes of a file that are written at a time


@dataclass
class Form:
    """Fields and files of a body, in the order in which they came; ``[]`` after a field's name is dropped."""

    fields: dict[str, list[str]] = field(default_factory=dict)
    files: dict[str, list[Path]] = field(default_factory=dict)

    def one(self, name: str) -> str | None:
        """Return a field's only value; None if it is missing or empty.

        Raises:
            ApiError: it came twice.
        """
        values = self.fields.get(name, [])
        if len(values) > 1:
            raise invalid(f"{name} is given {len(values)} times; give it once", name)
        return values[0].strip() or None if values else None


def declared(headers: Mapping[str, str], limits: Limits) -> int | None:
    """Return the length that a request announces; None if it announces none.

    Raises:
        ApiError: it is too long, or compressed.
    """
    if headers.get("content-encoding", "identity").lower() != "identity":
        raise ApiError(415, "compressed bodies are not read; send the form as it is", "unsupported_encoding")
    text = headers.get("content-length")
    length = int(text) if text and text.isdigit() else None
    if length is not None and length > limits.upload_bytes:
        raise too_large(limits)
    return length


def too_large(limits: Limits) -> ApiError:
    """Return the error of a body over the limit."""
    most = limits.upload_bytes / MIB
    message = f"the request is larger than {most:g} MiB; send compressed audio (FLAC, MP3, Opus) or parts of it"
    return ApiError(413, message, "request_too_large", "file", headers={"Connection": "close"})


async def pieces(stream: AsyncIterator[bytes], limits: Limits) -> AsyncIterator[bytes]:
    """Yield the pieces of a body as they come.

    Raises:
        ApiError: too large, or too slow.
    """
    begin, received = time.monotonic(), 0
    coming = aiter(stream)
    while True:
        try:
            piece = await asyncio.wait_for(anext(coming), limits.idle_seconds)
        except StopAsyncIteration:
            return
        except TimeoutError:
            raise _slow(f"no byte of the upload came for {limits.idle_seconds:g} s") from None
        received += len(piece)
        if received > limits.upload_bytes:
            raise too_large(limits)
        passed = time.monotonic() - begin
        if passed > limits.request_seconds:
            raise _slow(f"the upload took longer than {limits.request_seconds:g} s")
        if passed > limits.grace_seconds and received < passed * limits.bytes_per_second:
            raise _slow(f"the upload is slower than {limits.bytes_per_second:g} bytes per second")
        yield piece


def _slow(message: str) -> ApiError:
    return ApiError(408, message, "upload_timeout", headers={"Connection": "close"})


async def read_form(content_type: str, stream: AsyncIterator[bytes], folder: Path, limits: Limits) -> Form:
    """Read a multipart form; files and references are written to `folder`.

    Raises:
        ApiError: not such a form, damaged, too large, too slow.
    """
    from python_multipart.exceptions import FormParserError
    from python_multipart.multipart import MultipartParser, parse_options_header

    kind, options = parse_options_header(content_type)
    if kind != b"multipart/form-data" or not options.get(b"boundary"):
        raise invalid("expected a form (multipart/form-data) with the part 'file'", "file", "invalid_form")
    reader = _Reader(folder, limits)
    try:
        parser: Any = MultipartParser(options[b"boundary"], reader.callbacks())
        async for piece in pieces(stream, limits):
            parser.write(piece)
            await reader.flush(FLUSH)
        await reader.flush(0)
    except FormParserError as e:
        raise invalid(f"the form is damaged: {e}", code="invalid_form") from e
    finally:
        reader.close()
    if not reader.ended:
        raise invalid("the form ends before its last boundary", code="invalid_form")
    return reader.form


async def read_body(stream: AsyncIterator[bytes], path: Path, limits: Limits) -> None:
    """Write a whole body to a file.

    Raises:
        ApiError: too large, too slow.
    """
    waiting = bytearray()
    with path.open("wb") as file:
        async for piece in pieces(stream, limits):
            waiting += piece
            if len(waiting) >= FLUSH:
                await asyncio.to_thread(file.write, bytes(waiting))
                waiting.clear()
        file.write(waiting)


class _Reader:
    """Takes the events of the form's parser."""

    def __init__(self, folder: Path, limits: Limits) -> None:
        self.form, self.ended = Form(), False
        self._folder, self._limits = folder, limits
        self._parts = self._kept = 0  # parts, and bytes of fields in memory
        self._header, self._value = b"", b""
        self._disposition = b""
        self._name = ""
        self._text: bytearray | None = None  # of a field in memory
        self._file: IO[bytes] | None = None
        self._waiting: list[bytes] = []  # for the file

    def callbacks(self) -> Any:
        return {
            "on_part_begin": self._begin,
            "on_header_field": self._on_header,
            "on_header_value": self._on_value,
            "on_header_end": self._on_header_end,
            "on_headers_finished": self._open,
            "on_part_data": self._on_data,
            "on_part_end": self._end,
            "on_end": self._finish,
        }

    async def flush(self, least: int) -> None:
        """Write what waits for the open file, if it is so many bytes."""
        if self._file is not None and sum(map(len, self._waiting)) >= least:
            data, self._waiting = b"".join(self._waiting), []
            await asyncio.to_thread(self._file.write, data)

    def close(self) -> None:
        if self._file is not None:
            self._file.close()

    def _begin(self) -> None:
        self._parts += 1
        if self._parts > self._limits.parts:
            raise invalid(f"the form has more than {self._limits.parts} parts", code="invalid_form")
        self._disposition = b""

    def _on_header(self, data: bytes, start: int, end: int) -> None:
        self._header += data[start:end]

    def _on_value(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]

    def _on_header_end(self) -> None:
        if self._header.lower() == b"content-disposition":
            self._disposition = self._value
        self._header, self._value = b"", b""

    def _open(self) -> None:
        from python_multipart.multipart import parse_options_header

        options = parse_options_header(self._disposition)[1]
        name = options.get(b"name", b"").decode("utf-8", "replace").removesuffix("[]")
        if not name:
            raise invalid("a part of the form has no name", code="invalid_form")
        self._name = name
        if name in ON_DISK:
            suffix = Path(options.get(b"filename", b"").decode("utf-8", "replace")).suffix.lower()
            path = self._folder / (secrets.token_hex(8) + (suffix if suffix in RAW else ""))
            self._file = path.open("wb")
            self.form.files.setdefault(name, []).append(path)
        else:
            self._text = bytearray()

    def _on_data(self, data: bytes, start: int, end: int) -> None:
        if self._file is not None:
            self._waiting.append(data[start:end])
            return
        self._kept += end - start
        if self._kept > self._limits.field_bytes:
            raise invalid(f"the form's fields are longer than {self._limits.field_bytes} bytes", code="invalid_form")
        if self._text is not None:
            self._text += data[start:end]

    def _end(self) -> None:
        if self._file is not None:
            self._file.write(b"".join(self._waiting))
            self._waiting = []
            self._file.close()
            self._file = None
        elif self._text is not None:
            try:
                text = self._text.decode()
            except UnicodeDecodeError as e:
                raise invalid(f"{self._name} is not UTF-8", self._name, "invalid_form") from e
            self.form.fields.setdefault(self._name, []).append(text)
            self._text = None

    def _finish(self) -> None:
        self.ended = True
