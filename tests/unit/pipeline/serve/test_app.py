"""The API as OpenAI's client uses it: real uvicorn on a free port, a stand-in for the model."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import openai
import pytest

from pipeline.decode.generate import Answer
from pipeline.prompts import Prompt, TextPiece
from pipeline.transcribe.transcriber import TranscribeOptions
from tests.support.serving import (
    SHORT,
    TALK,
    Running,
    Slow,
    TonesExtractor,
    create,
    data_url,
    fetch,
    part,
    post,
    refused,
    registered,
    says,
    serving,
    tones,
    wait_until,
    wav,
)

# ------------------------------------------------------------------------------------------------------------- answers


def test_each_format(client: Any) -> None:
    people = {"known_speaker_names": ["Mike"], "known_speaker_references": [data_url(tones(4))]}
    found = create(client, **people)
    assert {s.speaker for s in found.segments} == {"Mike"}
    assert found.duration == 9.0
    assert found.segments[0].type == "transcript.text.segment"
    assert all(0 <= s.start < s.end <= 9 for s in found.segments)
    text = found.text
    assert text == " ".join(s.text for s in found.segments) == "hello hello"
    assert create(client, response_format="json", **people).text == text
    assert create(client, response_format="text", **people) == "Mike: hello\nMike: hello\n"
    assert create(client, response_format="srt", **people).count("\nMike: hello\n") == 2
    assert create(client, response_format="vtt", **people).startswith("WEBVTT\n\n00:00:00.")
    verbose = create(client, response_format="verbose_json", language="en", **people)
    assert (verbose.language, verbose.duration, verbose.segments[0].avg_logprob) == ("en", 9.0, None)
    assert [s.start for s in verbose.segments] == [s.start for s in found.segments]


def test_a_streamed_answer_adds_up(client: Any) -> None:
    events = list(create(client, stream=True))
    assert [e.type.rpartition(".")[2] for e in events] == ["delta", "segment", "delta", "segment", "done"]
    assert "".join(e.delta for e in events if e.type.endswith("delta")) == events[-1].text == "hello hello"
    segments = [e for e in events if e.type.endswith("segment")]
    assert [(s.start, s.speaker) for s in segments] == [(s.start, s.speaker) for s in create(client).segments]
    plain = list(create(client, stream=True, response_format="json"))
    assert {e.type.rpartition(".")[2] for e in plain} == {"delta", "done"}


def test_streamed_turns_come_before_the_end(tmp_path: Path) -> None:
    slow = Slow()
    slow.release.set()
    with serving(tmp_path, slow) as running, running.client() as client:
        stream = create(client, stream=True)
        first = next(iter(stream))
        assert first.type == "transcript.text.delta"
        slow.release.clear()
        wait_until(lambda: len(slow.batches) == 2)  # the second chunk is being decoded
        slow.release.set()
        assert [e.type for e in stream][-1] == "transcript.text.done"


def test_models_health_and_figures(client: Any, running: Running) -> None:
    assert [m.id for m in client.models.list()] == ["stand-in", "whisper-1"]
    assert client.models.retrieve("whisper-1").id == "whisper-1"
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("gpt")
    create(client, model="whisper-1")
    assert fetch(f"{running.url}/health") == (200, {"status": "ok"})
    text = fetch(f"{running.url}/metrics")[1]
    assert 'speakerlm_requests_total{route="/v1/audio/transcriptions",status="200"}' in text
    assert "speakerlm_audio_seconds_total" in text
    assert "speakerlm_active_requests 0.0" in text


# -------------------------------------------------------------------------------------------------------------- people


def put(running: Running, name: str, audio: bytes, kind: str = "audio/wav") -> tuple[int, dict[str, Any]]:
    status, answer = fetch(f"{running.url}/v1/speakers/{name}", "PUT", audio, **{"Content-Type": kind})
    return status, answer.get("error", answer)


def test_enrolled_people_are_known_in_every_request(client: Any, running: Running) -> None:
    status, person = put(running, "%E6%9D%8E%20Mike", wav(tones(4)))
    assert (status, person["name"], person["warnings"]) == (201, "李 Mike", [])
    assert put(running, "%E6%9D%8E%20Mike", wav(tones(4, 700)))[0] == 200
    form = part("file", wav(tones(4, 700)), file=True) + part("file", wav(tones(3, 700)), file=True) + b"--b--\r\n"
    assert put(running, "Lucy", form, "multipart/form-data; boundary=b")[0] == 201
    assert [p["name"] for p in fetch(f"{running.url}/v1/speakers")[1]["data"]] == ["李 Mike", "Lucy"]
    assert {s.speaker for s in create(client).segments} == {"李 Mike", "Lucy"}
    assert {s.speaker for s in create(client, known_speaker_names=["Lucy"]).segments} == {"Lucy"}
    assert "not enrolled: Bob" in refused(client, 400, known_speaker_names=["Bob"])["message"]
    many = [f"P{i}" for i in range(6)]  # OpenAI takes four
    clips = [data_url(tones(3, 300 + 90 * i)) for i in range(6)]
    found = create(client, known_speaker_names=many, known_speaker_references=clips)
    assert {s.speaker for s in found.segments} == set(many)
    folder = running.service.people._folder
    assert not [p for p in folder.iterdir() if not p.name.endswith(".speaker.json")]  # vectors, no audio
    assert fetch(f"{running.url}/v1/speakers/Lucy", "DELETE")[1]["deleted"]
    assert fetch(f"{running.url}/v1/speakers/Lucy", "DELETE")[0] == 404


@pytest.mark.parametrize(
    ("name", "audio", "says"),
    [
        ("a%3Ab", wav(tones(4)), "invalid name"),
        ("Mike", b"", "no clip of the voice"),
        ("Mike", b"no audio" * 99, "file: not a readable audio file"),
        ("Mike", wav(np.zeros(16_000)), "file: no speech to enrol Mike from"),
        ("Mike", wav(tones(80)), "larger than 2 MiB"),
    ],
)
def test_invalid_enrolments_are_refused(running: Running, name: str, audio: bytes, says: str) -> None:
    status, error = put(running, name, audio)
    assert status in (400, 413)
    assert error["message"].startswith(says) or says in error["message"]
    assert str(running.service.spool) not in error["message"]


def test_warnings_are_in_every_format(client: Any) -> None:
    """A reference of less than two seconds."""
    people = {"known_speaker_names": ["Mike"], "known_speaker_references": [data_url(tones(1.5))]}
    says = "known_speaker_references[0]: only 1.1 s of speech for Mike; 2–10 s make a better vector"
    assert create(client, **people).warnings == [says]
    raw = client.audio.transcriptions.with_raw_response.create(
        file=("a.wav", TALK), model="stand-in", response_format="srt", **people
    )
    assert json.loads(raw.headers["X-SpeakerLM-Warnings"]) == [says]
    assert list(create(client, stream=True, **people))[-1].warnings == [says]


# ----------------------------------------------------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    ("audio", "code", "says"),
    [
        (b"", "empty_file", "0 bytes"),
        (b"this is no audio" * 100, "invalid_audio", "file: not a readable audio file"),
        (wav(tones(9), "FLAC")[:-9000], "invalid_audio", "file: "),
        (wav(tones(61)), "too_long", "longer than 0.0166667 hours"),
        (wav(np.full(16_000, np.nan), subtype="FLOAT"), "invalid_audio", "not finite"),
    ],
)
def test_damaged_uploads_are_refused_with_the_reason(
    client: Any, running: Running, audio: bytes, code: str, says: str
) -> None:
    for stream in (False, True):
        error = refused(client, 400, audio, stream=stream)
        assert (error["code"], error["param"]) == (code, "file")
        assert says in error["message"]
        assert str(running.service.spool) not in error["message"]
    wait_until(lambda: running.service.active == 0)
    assert list(running.service.spool.iterdir()) == []


def test_references_and_names_that_do_not_fit(client: Any) -> None:
    clip = data_url(tones(4))
    for names, clips, message in [
        (["a", "b"], [clip], "2 known_speaker_names[] and 1 known_speaker_references[]"),
        (["a"], ["data:audio/wav;base64,AAAA"], "known_speaker_references[0]: not a readable audio file"),
        (["a"], [data_url(np.zeros(16_000))], "known_speaker_references[0]: no speech to enrol a from"),
        (["a"], ["http://127.0.0.1/a.wav"], "known_speaker_references[0] is not a data URL"),
    ]:
        error = refused(client, 400, known_speaker_names=names, known_speaker_references=clips)
        assert error["message"].startswith(message)
        assert error["param"].startswith("known_speaker_references")
    assert refused(client, 400, response_format="xml")["param"] == "response_format"
    assert refused(client, 404, model="gpt-4o")["code"] == "model_not_found"


def test_damaged_forms_are_refused(running: Running) -> None:
    model, file = part("model", b"stand-in"), part("file", TALK, file=True)
    end = b"--b--\r\n"
    for body, message in [
        (model + end, "0 parts 'file'"),
        (file + end, "model is missing"),
        (file + file + model + end, "2 parts 'file'"),
        (model + file, "ends before its last boundary"),
        (b"nonsense", "the form is damaged"),
        (b"--b\r\n\r\nx\r\n" + end, "a part of the form has no name"),
        (model * 1001 + end, "more than 1000 parts"),
        (part("prompt", b"x" * (1 << 20)) + model + end, "fields are longer"),
        (part("known_speaker_names[]", b"\xff") + model + file + end, "known_speaker_names is not UTF-8"),
    ]:
        status, error = post(running, body)
        assert (status, message in error["message"]) == (400, True), error
    status, error = post(running, b"{}", "application/json")
    assert (status, error["code"]) == (400, "invalid_form")


def test_a_model_of_stage_1(tmp_path: Path) -> None:
    with serving(tmp_path, says("hello"), registers=False) as running, running.client() as client:
        assert create(client, response_format="json").text == "hello hello"
        assert create(client, response_format="text") == "hello\nhello\n"
        assert "of stage 1" in refused(client, 400)["message"]
        people = {"known_speaker_names": ["a"], "known_speaker_references": [data_url(tones(4))]}
        assert "of stage 1" in refused(client, 400, response_format="json", **people)["message"]
        assert "of stage 1" in put(running, "Mike", wav(tones(4)))[1]["message"]


def test_unknown_paths_and_methods(running: Running) -> None:
    for path, method, status in (("/v1/none", "GET", 404), ("/v1/models", "POST", 405)):
        code, answer = fetch(running.url + path, method)
        assert code == status
        assert answer["error"].keys() == {"message", "type", "param", "code"}


# ------------------------------------------------------------------------------------------------------------- privacy


def test_terms_of_a_request_come_before_those_of_the_server(tmp_path: Path) -> None:
    options = TranscribeOptions(SHORT, vad="energy", context=("GPU", "Zoe"))

    def context(prompts: Sequence[Prompt]) -> list[Answer]:
        texts = [p.text for p in prompts[0].pieces if isinstance(p, TextPiece)]
        return [Answer(f"spk0: {''.join(texts).partition(chr(10))[0]}", "end", 3) for _ in prompts]

    with serving(tmp_path, context, options=options, reads_context=True) as running, running.client() as client:
        assert create(client, wav(tones(2)), prompt="Zoe, ZeRO-3").text == "Context: Zoe, ZeRO-3, GPU"
        assert create(client, wav(tones(2))).text == "Context: GPU, Zoe"


def test_key_and_origin(tmp_path: Path) -> None:
    with serving(tmp_path, registered, key="right", origins=["https://good.example"]) as running:
        with running.client(api_key="right") as client:
            assert create(client).text
        with running.client(api_key="wrong") as client, pytest.raises(openai.AuthenticationError, match="wrong"):
            create(client)
        assert fetch(f"{running.url}/metrics")[0] == 401
        assert fetch(f"{running.url}/metrics", Authorization="Bearer right")[0] == 200
        for origin, status in (("https://evil.example", 403), ("https://good.example", 200), (running.url, 200)):
            assert fetch(f"{running.url}/health", Origin=origin)[0] == status


def test_nothing_that_a_client_sends_is_in_the_log(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "pipeline")
    caplog.set_level(logging.INFO, "uvicorn")

    class Broken(TonesExtractor):
        def embed(self, waves: Any) -> Any:
            raise RuntimeError("a secret of SecretMike")

    with serving(tmp_path, says("SecretMike: secret words"), extractor=Broken, enrol_dir=tmp_path / "p") as running:
        with running.client() as client:
            create(client, prompt="secret prompt")
            refused(client, 400, b"secret" * 99)
            people = {"known_speaker_names": ["SecretMike"], "known_speaker_references": [data_url(tones(4))]}
            assert "RuntimeError" in refused(client, 500, **people)["message"]
        assert put(running, "SecretMike", wav(tones(4)))[0] == 500
        assert fetch(f"{running.url}/v1/models?secret=1")[0] == 200
    assert "POST /v1/audio/transcriptions 200" in caplog.text
    assert "PUT /v1/speakers/{name:path} 500" in caplog.text
    assert "RuntimeError at test_app.py" in caplog.text
    assert "secret" not in caplog.text.lower()
