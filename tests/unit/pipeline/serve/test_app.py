"""The API as OpenAI's client uses it: real uvicorn on a free port, a stand-in for the model."""

from __future__ import annotations

import json
import logging
import socket
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import openai
import pytest

from pipeline.decode.generate import Answer
from pipeline.prompts import Prompt, TextPiece
from pipeline.serve.limits import Limits
from pipeline.transcribe.transcriber import TranscribeOptions
from tests.support.memory import Watch
from tests.support.serving import (
    SHORT,
    Running,
    Slow,
    TonesExtractor,
    data_url,
    fetch,
    registered,
    says,
    serving,
    tones,
    wait_until,
    wav,
)

TALK = wav(tones(9))
LIMITS = Limits(
    upload_bytes=4 << 20, reference_bytes=2 << 20, hours=60 / 3600, people=6, idle_seconds=2.0, grace_seconds=0.5
)


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    folder = tmp_path_factory.mktemp("serve")
    with serving(folder, registered, limits=LIMITS, enrol_dir=folder / "people") as found:
        yield found


@pytest.fixture
def client(running: Running) -> Iterator[Any]:
    with running.client() as found:
        yield found
    for name in [p.name for p in running.service.people.listed()]:
        running.service.people.delete(name)


def create(client: Any, audio: bytes = TALK, **fields: Any) -> Any:
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


# ------------------------------------------------------------------------------------------------- clients of all kinds


def head(length: int) -> bytes:
    return (
        "POST /v1/audio/transcriptions HTTP/1.1\r\nHost: x\r\nContent-Type: multipart/form-data; boundary=b\r\n"
        f"Content-Length: {length}\r\n\r\n"
    ).encode()


def answer_of(connection: socket.socket) -> tuple[int, dict[str, Any]]:
    """Status and error of what a server sends before it closes the connection."""
    data = b""
    while piece := connection.recv(65536):
        data += piece
    status, _, rest = data.partition(b"\r\n")
    return int(status.split()[1]), json.loads(rest.partition(b"\r\n\r\n")[2])["error"]


def test_ten_gigabytes_are_refused_before_they_are_sent(client: Any, running: Running) -> None:
    with running.connect() as connection:
        connection.sendall(head(10 << 30))
        status, error = answer_of(connection)
    assert (status, error["code"]) == (413, "request_too_large")
    assert refused(client, 413, bytes(5 << 20))["code"] == "request_too_large"
    assert post(running, bytes(20 << 20))[0] == 413  # by a client that reads no answer while it sends


def test_an_upload_longer_than_the_limit_is_cut_off(running: Running) -> None:
    with running.connect() as connection:
        connection.sendall(head(0).replace(b"Content-Length: 0", b"Transfer-Encoding: chunked"))
        connection.sendall(b"%x\r\n" % (1 << 20) + part("file", b"", file=True)[:-2].ljust(1 << 20) + b"\r\n")
        for _ in range(4):
            connection.sendall(b"%x\r\n" % (1 << 20) + bytes(1 << 20) + b"\r\n")
        assert answer_of(connection)[0] == 413
    wait_until(lambda: running.service.active == 0)


def test_an_hour_needs_little_memory(tmp_path: Path) -> None:
    """115 MB of audio; somebody speaks at the end."""
    end, silence = tones(9)[1600:], bytes(1 << 20)
    count = 110
    size = count * len(silence) + 2 * len(end)
    header = bytearray(wav(end)[:44])
    header[4:8], header[40:44] = (36 + size).to_bytes(4, "little"), size.to_bytes(4, "little")
    begin = part("model", b"stand-in") + part("file", bytes(header), file=True)[:-2]
    last = wav(end)[44:] + b"\r\n--b--\r\n"
    with serving(tmp_path, says("hello"), registers=False) as running, running.client() as client:
        create(client, response_format="json")  # loads what is loaded once
        with Watch() as watch, running.connect() as connection:
            connection.settimeout(120)
            length = len(begin) + count * len(silence) + len(last)
            connection.sendall(head(length).replace(b"Host: x", b"Host: x\r\nConnection: close") + begin)
            for _ in range(count):
                connection.sendall(silence)
            connection.sendall(last)
            answer = b""
            while piece := connection.recv(65536):
                answer += piece
    assert answer.startswith(b"HTTP/1.1 200")
    assert b'"text": "hello hello"' in answer
    assert watch.grown < 40 << 20  # bytes; as it is sent it would be 115 MB


def test_a_slow_client_is_cut_off(running: Running) -> None:
    """One byte at a time, and then none."""
    for pause, message in ((0.2, "slower than 1024 bytes per second"), (60.0, "no byte of the upload came for 2 s")):
        with running.connect() as connection:
            connection.sendall(head(1000))
            stop = threading.Event()

            def drip(connection: socket.socket = connection, pause: float = pause, stop: Any = stop) -> None:
                while not stop.wait(pause):
                    try:
                        connection.sendall(b"-")
                    except OSError:
                        return

            dripping = threading.Thread(target=drip)
            dripping.start()
            status, error = answer_of(connection)
            stop.set()
            dripping.join()
        assert (status, error["code"]) == (408, "upload_timeout")
        assert message in error["message"]


def test_a_client_that_leaves_costs_no_more(tmp_path: Path) -> None:
    slow = Slow()
    with serving(tmp_path, slow, batch=2) as running:
        body = part("model", b"stand-in") + part("file", wav(tones(30)), file=True) + b"--b--\r\n"
        with running.connect() as connection:
            connection.sendall(head(len(body)) + body)
            assert slow.begun.wait(30)
            assert running.service.active == 1
        wait_until(lambda: running.service.active == 0)
        with running.connect() as connection:
            connection.sendall(head(len(body)) + body[:100_000])  # and one in the middle of its upload
            wait_until(lambda: running.service.active == 1)
        wait_until(lambda: running.service.active == 0)
        slow.release.set()
        with running.client() as client:
            assert create(client, response_format="json").text
        assert slow.batches == [2, 2]  # of the first, what had been asked before it left
        assert list(running.service.spool.iterdir()) == []


def test_time_is_limited(tmp_path: Path) -> None:
    slow = Slow()
    with serving(tmp_path, slow, limits=Limits(request_seconds=1.0)) as running, running.client() as client:
        error = refused(client, 504)
        assert (error["type"], error["code"]) == ("server_error", "timeout")
        slow.release.set()
        wait_until(lambda: running.service.active == 0)


def test_two_hundred_at_once(tmp_path: Path) -> None:
    """As many as there are places are answered, the others are sent away with the time to come again; none is lost."""
    slow = Slow()
    waits: list[int] = []
    with serving(tmp_path, slow, limits=Limits(requests=20, running=8)) as running:
        with running.client() as client, ThreadPoolExecutor(200) as pool:

            def one(_: int) -> str:
                try:
                    return create(client, response_format="json").text
                except openai.RateLimitError as e:
                    waits.append(int(e.response.headers["Retry-After"]))
                    return str(e.body["code"])

            answers = [pool.submit(one, i) for i in range(200)]
            wait_until(lambda: sum(a.done() for a in answers) >= 180, 60)
            slow.release.set()
            found = [a.result(60) for a in answers]
        assert (found.count("rate_limit_exceeded"), found.count("hello hello")) == (180, 20)
        assert len(waits) == 180
        assert set(waits) <= set(range(1, 61))
        assert max(slow.batches) > 1
        wait_until(lambda: running.service.active == 0)


def test_requests_share_a_batch(tmp_path: Path) -> None:
    slow = Slow()
    with serving(tmp_path, slow, batch=16, options=TranscribeOptions(SHORT, vad="energy")) as running:
        with running.client() as client, ThreadPoolExecutor(6) as pool:
            answers = [pool.submit(create, client) for _ in range(6)]
            wait_until(lambda: running.service.requests.waiting >= 8)
            slow.release.set()
            assert {a.result(60).text for a in answers} == {"hello hello"}
        assert sum(slow.batches) == 12
        assert len(slow.batches) <= 3


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
