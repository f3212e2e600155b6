"""A transcription request: the form's fields, checked."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote_to_bytes

from pipeline.decode.context_line import joined_terms, split_terms
from pipeline.serve.errors import ApiError, invalid
from pipeline.serve.limits import Limits
from pipeline.serve.replies import FORMATS, NAMED, STREAMED
from pipeline.serve.upload import REFERENCES, Form
from pipeline.transcribe.enrolment import check_name
from shards.errors import ConfigError

NAMES = "known_speaker_names"
LANGUAGE = 35  # characters of a code; the longest that RFC 5646 asks for
KNOWN = {"model", "language", "response_format", "stream", "temperature", "prompt", "chunking_strategy", NAMES}


@dataclass(frozen=True)
class TranscriptionRequest:
    """A checked request. Its files are in the request's folder."""

    audio: Path
    response_format: str = "json"
    stream: bool = False
    language: str | None = None
    names: tuple[str, ...] = ()
    references: tuple[Path, ...] = ()  # data URLs; empty: the names are enrolled on the server
    warnings: tuple[str, ...] = ()
    context: tuple[str, ...] = ()  # terms of ``prompt``, then the server's

    @classmethod
    def of(
        cls,
        form: Form,
        models: Collection[str],
        registers: bool,
        limits: Limits,
        reads_context: bool = False,
        context: Sequence[str] = (),
    ) -> TranscriptionRequest:
        """Check a form.

        Args:
            models: names under which the model is served.
            registers: False for a model of stage 1, which writes words only.
            reads_context: the model was trained with a line of context.
            context: the server's own terms.

        Raises:
            ApiError: what is missing or wrong, with the field's name.
        """
        audio = form.files.get("file", [])
        if len(audio) != 1:
            raise invalid(
                f"the form has {len(audio)} parts 'file'; it needs one with the audio", "file", "missing_file"
            )
        if audio[0].stat().st_size == 0:
            raise invalid("file is empty: 0 bytes", "file", "empty_file")
        check_model(form.one("model"), models)
        kind, stream = form.one("response_format") or "json", _flag(form.one("stream"), "stream")
        if kind not in FORMATS:
            raise invalid(f"unknown response_format {kind!r}; known: {', '.join(FORMATS)}", "response_format")
        if stream and kind not in STREAMED:
            raise invalid(f"stream=true takes response_format {' or '.join(STREAMED)}, not {kind}", "response_format")
        names, references = form.fields.get(NAMES, []), form.files.get(REFERENCES, [])
        check_people(names, len(references), limits)
        if not registers and (names or kind in NAMED):
            what, param = ("known speakers", NAMES) if names else (f"response_format {kind}", "response_format")
            raise no_names(what, param)
        terms, notes = context_of(form.one("prompt") or "", reads_context, context)
        warnings = (*_ignored(form), *notes)
        language = form.one("language")
        if language and len(language) > LANGUAGE:
            raise invalid(
                f"language has {len(language)} characters, at most {LANGUAGE} are taken: give a code such as en",
                "language",
            )
        return cls(audio[0], kind, stream, language, tuple(names), tuple(references), warnings, terms)


def context_of(prompt: str, reads_context: bool, server: Sequence[str] = ()) -> tuple[tuple[str, ...], list[str]]:
    """Return the terms of a prompt and those of the server, and warnings: a model that reads no context gets none.

    Raises:
        ApiError: too many terms, or one is too long.
    """
    if not (prompt and reads_context):
        return tuple(server), ["prompt is ignored: this model was not trained with a line of context"] * bool(prompt)
    try:
        return joined_terms(split_terms(prompt), server), []
    except ConfigError as e:
        raise invalid(f"prompt: {e}", "prompt", "invalid_prompt") from e


def no_names(what: str, param: str | None = None) -> ApiError:
    """Return the error of a request for names to a model of stage 1."""
    message = f"the model is of stage 1, which writes words but no names: it cannot serve {what}"
    return invalid(message, param, "unsupported_by_model")


def check_model(name: str | None, models: Collection[str]) -> None:
    """Check a model's name.

    Raises:
        ApiError: it is missing, or not served here.
    """
    if name is None:
        raise invalid("model is missing", "model", "missing_model")
    if name not in models:
        message = f"the model {name!r} is not served here; GET /v1/models lists those that are"
        raise ApiError(404, message, "model_not_found", "model")


def check_people(names: list[str], references: int, limits: Limits) -> None:
    """Check names of known speakers and the number of their references.

    Raises:
        ApiError: a name that a prompt cannot hold or that comes twice, or numbers that differ.
    """
    if references and references != len(names):
        raise invalid(
            f"{len(names)} {NAMES}[] and {references} {REFERENCES}[]: give one reference for each name, or no "
            "reference for names that are enrolled on the server",
            REFERENCES,
        )
    if len(names) > limits.people:
        raise invalid(f"{len(names)} known speakers; at most {limits.people} are taken", NAMES)
    for name in names:
        try:
            check_name(name)
        except ConfigError as e:
            raise invalid(str(e), NAMES, "invalid_name") from e
    if twice := sorted({n for n in names if names.count(n) > 1}):
        raise invalid(f"known speakers with the same name: {', '.join(twice)}", NAMES, "invalid_name")


def decode_reference(text: bytes, name: str, limits: Limits) -> bytes:
    """Return the audio of a data URL such as ``data:audio/wav;base64,…``.

    Raises:
        ApiError: it is no data URL, damaged, or too long.
    """
    head, comma, data = text.strip().partition(b",")
    if not (comma and head.lower().startswith(b"data:")):
        raise invalid(f"{name} is not a data URL such as data:audio/wav;base64,…", REFERENCES, "invalid_reference")
    if head.lower().endswith(b";base64"):
        try:
            found = base64.b64decode(b"".join(unquote_to_bytes(data).split()), validate=True)
        except binascii.Error as e:
            raise invalid(f"{name}: its base64 is damaged ({e})", REFERENCES, "invalid_reference") from e
    else:
        found = unquote_to_bytes(data)
    if not found or len(found) > limits.reference_bytes:
        raise invalid(
            f"{name} holds {len(found)} bytes of audio; expected 1 to {limits.reference_bytes}",
            REFERENCES,
            "invalid_reference",
        )
    return found


def _flag(text: str | None, name: str) -> bool:
    if text is not None and text.lower() not in ("true", "false", "1", "0"):
        raise invalid(f"{name} is {text!r}; expected true or false", name)
    return text is not None and text.lower() in ("true", "1")


def _ignored(form: Form) -> list[str]:
    """Return warnings about fields that change nothing.

    Raises:
        ApiError: the client asks for something in the answer that cannot be given.
    """
    if "word" in form.fields.get("timestamp_granularities", []):
        raise invalid("timestamp_granularities: the model gives times of turns, not of words; ask for segment",
                      "timestamp_granularities")  # fmt: skip
    if form.fields.get("include"):
        raise invalid("include: log probabilities are not given", "include")
    found = []
    temperature = form.one("temperature")
    try:
        greedy = float(temperature or 0) == 0
    except ValueError:
        raise invalid(f"temperature is {temperature!r}, not a number", "temperature") from None
    if not greedy:
        found.append("temperature is ignored: decoding is greedy")
    if form.one("chunking_strategy") not in (None, "auto"):
        found.append("chunking_strategy is ignored: chunks end in silence, as the server's --seconds says")
    unknown = sorted(form.fields.keys() - KNOWN - {"timestamp_granularities", "include"})
    return found + [f"unknown field {name[:40]!r} is ignored" for name in unknown[:10]]
