"""Fields of a transcription request, without a server."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from pathlib import Path

import pytest

from pipeline.serve.errors import ApiError
from pipeline.serve.limits import Limits
from pipeline.serve.request import TranscriptionRequest, decode_reference
from pipeline.serve.upload import Form

LIMITS = Limits(people=3, reference_bytes=10)


def request(
    tmp_path: Path,
    registers: bool = True,
    references: int = 0,
    reads: bool = False,
    server: Sequence[str] = (),
    **fields: str | list[str],
) -> TranscriptionRequest:
    (tmp_path / "audio").write_bytes(b"x")
    listed = {"model": "m"} | fields
    form = Form(
        {k: v if isinstance(v, list) else [v] for k, v in listed.items()},
        {"file": [tmp_path / "audio"], "known_speaker_references": [tmp_path / "r"] * references},
    )
    return TranscriptionRequest.of(form, ["m"], registers, LIMITS, reads, server)


def test_defaults(tmp_path: Path) -> None:
    found = request(tmp_path)
    assert (found.response_format, found.stream, found.names, found.warnings) == ("json", False, (), ())


@pytest.mark.parametrize(
    ("fields", "param", "says"),
    [
        ({"response_format": "xml"}, "response_format", "unknown response_format 'xml'; known: json, text"),
        ({"stream": "true", "response_format": "srt"}, "response_format", "stream=true takes"),
        ({"stream": "maybe"}, "stream", "expected true or false"),
        ({"model": ""}, "model", "model is missing"),
        ({"model": "other"}, "model", "not served here"),
        ({"language": "x" * 36}, "language", "has 36 characters"),
        ({"language": ["en", "de"]}, "language", "given 2 times"),
        ({"temperature": "warm"}, "temperature", "not a number"),
        ({"timestamp_granularities": ["segment", "word"]}, "timestamp_granularities", "times of turns"),
        ({"include": "logprobs"}, "include", "log probabilities"),
        ({"known_speaker_names": ["a", "b"], "references": 1}, "known_speaker_references", "2 known_speaker_names"),
        ({"references": 1}, "known_speaker_references", "0 known_speaker_names"),
        ({"known_speaker_names": ["a", "a"]}, "known_speaker_names", "same name: a"),
        ({"known_speaker_names": ["a:"]}, "known_speaker_names", "invalid name"),
        ({"known_speaker_names": list("abcd")}, "known_speaker_names", "at most 3"),
        ({"known_speaker_names": ["a"], "registers": False}, "known_speaker_names", "of stage 1"),
        ({"response_format": "diarized_json", "registers": False}, "response_format", "of stage 1"),
    ],
)
def test_wrong_fields_are_named(tmp_path: Path, fields: dict, param: str, says: str) -> None:
    with pytest.raises(ApiError, match=says) as error:
        request(tmp_path, **fields)
    assert error.value.param == param
    assert error.value.status == (404 if fields.get("model") else 400)
    assert error.value.body["error"].keys() == {"message", "type", "param", "code"}


def test_a_message_repeats_little_of_what_a_client_sent(tmp_path: Path) -> None:
    with pytest.raises(ApiError) as error:
        request(tmp_path, response_format="x" * 10_000)
    assert len(error.value.body["error"]["message"]) < 1100


def test_what_changes_nothing_is_warned_of(tmp_path: Path) -> None:
    found = request(tmp_path, temperature="0.2", prompt="names", chunking_strategy="server_vad", colour="red")
    assert [w.partition(" is ignored")[0] for w in found.warnings] == [
        "temperature", "chunking_strategy", "unknown field 'colour'", "prompt",
    ]  # fmt: skip
    assert request(tmp_path, temperature="0", chunking_strategy="auto").warnings == ()


def test_a_prompt_is_terms_for_a_model_that_reads_context(tmp_path: Path) -> None:
    found = request(tmp_path, reads=True, prompt="Zoe Li, GPU")
    assert (found.context, found.warnings) == (("Zoe Li", "GPU"), ())
    assert request(tmp_path, prompt="Zoe Li, GPU").context == ()
    with pytest.raises(ApiError, match="at most 60") as error:
        request(tmp_path, reads=True, prompt="a sentence " * 10)
    assert error.value.param == "prompt"


def test_the_limit_of_terms_counts_those_of_the_server(tmp_path: Path) -> None:
    server = [f"s{i}" for i in range(90)]
    ten = ", ".join([f"r{i}" for i in range(10)] + server[:5])  # five of them are the server's, too
    assert len(request(tmp_path, reads=True, server=server, prompt=ten).context) == 100
    assert request(tmp_path, reads=True, server=server).context == tuple(server)
    with pytest.raises(ApiError, match=r"101 terms, with 90 of --context .* at most 100") as error:
        request(tmp_path, reads=True, server=server, prompt=f"{ten}, r10")
    assert (error.value.status, error.value.param, error.value.code) == (400, "prompt", "invalid_prompt")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("http://x/a.wav", "not a data URL"),
        ("data:audio/wav;base64", "not a data URL"),
        ("data:audio/wav;base64,a", "base64 is damaged"),
        ("data:audio/wav;base64,", "0 bytes"),
        (f"data:audio/wav;base64,{base64.b64encode(b'x' * 11).decode()}", "11 bytes"),
    ],
)
def test_damaged_references_are_named(text: str, says: str) -> None:
    with pytest.raises(ApiError, match=says) as error:
        decode_reference(text.encode(), "known_speaker_references[0]", LIMITS)
    assert "known_speaker_references[0]" in error.value.message


def test_references_are_decoded() -> None:
    for text in ("data:audio/wav;base64,aGk%3D", "data:;base64,aGk=", "data:audio/wav,hi"):
        assert decode_reference(text.encode(), "r", LIMITS) == b"hi"
