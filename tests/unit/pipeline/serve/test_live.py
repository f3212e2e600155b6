"""Live sessions: the same turns and names as a file gets, by the API and by the command; limits and errors."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

from pipeline.serve.limits import Limits
from pipeline.transcribe.transcriber import TranscribeOptions, Transcriber
from shards.manifests.clips import ClipRule
from shards.sample import SAMPLE_RATE
from tests.support.serving import Running, Slow, data_url, registered, serving, tones, wait_until
from tests.support.speech import package_cache
from tests.support.voices import PEOPLE, Reference, clips, extractor, talk

RULE = ClipRule((8.0, 12.0), (6.0, 14.0))
LIVE = "/v1/audio/transcriptions/live"
LIMITS = Limits(live=1, idle_seconds=1.0, hours=60 / 3600)


def pcm(wave: np.ndarray) -> bytes:
    return (wave * 32767).astype("<i2").tobytes()


def rest_of(socket: Any) -> list[dict[str, Any]]:
    """All messages up to the end."""
    found = []
    with suppress(ConnectionClosed):
        while True:
            found.append(json.loads(socket.recv(60)))
    return found


def session(running: Running, audio: bytes, size: int = 3201, start: dict[str, Any] | None = None) -> list[dict]:
    """Everything that the server says about audio that is sent in messages of `size` bytes."""
    with connect(running.url.replace("http", "ws") + LIVE) as socket:
        if start is not None:
            socket.send(json.dumps({"type": "start", **start}))
        for at in range(0, len(audio), size):
            socket.send(audio[at : at + size])
        socket.send('{"type": "end"}')
        return rest_of(socket)


@pytest.fixture(scope="module")
def tones_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with serving(tmp_path_factory.mktemp("live"), registered, limits=LIMITS) as found:
        yield found


def test_a_live_session_is_a_file(tmp_path: Path) -> None:
    """Real voices, detector, speaker model: a session, an upload and the command give equal turns, times and names."""
    wave, said = talk(PEOPLE[:2], 6)
    wave = np.frombuffer(pcm(wave), "<i2").astype(np.float32) / 32768
    soundfile.write(tmp_path / "talk.wav", wave, SAMPLE_RATE, subtype="PCM_16")
    options = TranscribeOptions(RULE, naming="voice")
    voice = np.concatenate(clips(PEOPLE[0])[:1])
    two = np.concatenate([*clips(PEOPLE[1])[:2], *clips(PEOPLE[2])[:2]])
    people = {"known_speaker_names": ["Carlo"], "known_speaker_references": [data_url(voice)]}
    with serving(
        tmp_path, Reference(wave, said), options=options, extractor=extractor, cache=package_cache()
    ) as running:
        live = session(running, (tmp_path / "talk.wav").read_bytes()[44:], start=people)
        with running.client() as client:
            given = {"model": "stand-in", "response_format": "diarized_json"} | people
            file = client.audio.transcriptions.create(file=tmp_path / "talk.wav", **given)
            given["known_speaker_references"] = [data_url(two)]
            mixed = client.audio.transcriptions.create(file=tmp_path / "talk.wav", **given)
    soundfile.write(tmp_path / "carlo.wav", voice, SAMPLE_RATE)
    command = Transcriber(Reference(wave, said), extractor, options, cache=package_cache()).transcribe(
        tmp_path / "talk.wav", [("Carlo", tmp_path / "carlo.wav")]
    )
    assert [m["type"] for m in (live[0], live[-1])] == ["ready", "transcript.text.done"]
    turns = [(m["start"], m["end"], m["speaker"], m["text"]) for m in live[1:-1]]
    assert turns == [(s.start, s.end, s.speaker, s.text) for s in file.segments]
    assert turns == [(t.start, t.end, t.speaker, t.text) for t in command.turns]
    assert {t[2] for t in turns} == {"Carlo", "Speaker 1"}
    assert len({t.chunk for t in command.turns}) >= 2
    assert (live[-1]["text"], live[-1]["usage"]["seconds"]) == (file.text, file.duration)
    assert "known_speaker_references[0]: sounds like two people" in mixed.warnings[0]


def test_turns_come_while_audio_is_sent(tones_server: Running) -> None:
    audio = pcm(tones(20))
    with connect(tones_server.url.replace("http", "ws") + LIVE) as socket:
        socket.send(audio[: 15 * 2 * SAMPLE_RATE])
        assert json.loads(socket.recv(30))["type"] == "ready"
        first = json.loads(socket.recv(30))
        assert (first["type"], first["text"]) == ("transcript.text.segment", "hello")
        assert first["end"] < 7
        with pytest.raises(Exception, match="429"):  # one session is the limit here
            connect(tones_server.url.replace("http", "ws") + LIVE).__enter__()
        socket.send(audio[15 * 2 * SAMPLE_RATE :])
        socket.send('{"type": "end"}')
        rest = rest_of(socket)
    assert rest[-1]["type"] == "transcript.text.done"
    assert rest[-1]["usage"]["seconds"] == 20.0
    wait_until(lambda: tones_server.service.active == 0)


@pytest.mark.parametrize(
    ("first", "says"),
    [
        ("no JSON", "not JSON"),
        ("[]", "not a JSON object"),
        ('{"type": "stop"}', "begins with audio"),
        ('{"type": "start", "known_speaker_names": "Mike"}', "not a list of strings"),
        ('{"type": "start", "known_speaker_names": ["a", "b"], "known_speaker_references": ["x"]}', "one reference"),
        ('{"type": "start", "known_speaker_names": ["a"], "known_speaker_references": ["x"]}', "not a data URL"),
        ('{"type": "start", "prompt": ["Zoe"]}', "prompt is not a text"),
        ('{"type": "start", "prompt": "Zoe"}', "not trained with a line of context"),
        ('{"type": "start"}', "no audio came for 1 s"),
        (pcm(tones(61)), "longer than 0.0166667 hours"),
    ],
)
def test_errors_are_said_before_the_end(tones_server: Running, first: str | bytes, says: str) -> None:
    with connect(tones_server.url.replace("http", "ws") + LIVE) as socket:
        socket.send(first)
        said = rest_of(socket)
        assert socket.close_code == 1008
    assert said[-1]["type"] == "error"
    assert says in said[-1]["error"]["message"]
    assert said[-1]["error"].keys() == {"message", "type", "param", "code"}
    wait_until(lambda: tones_server.service.active == 0)


def test_a_session_whose_client_leaves_ends(tmp_path: Path) -> None:
    slow = Slow()
    with serving(tmp_path, slow, batch=1) as running:
        with connect(running.url.replace("http", "ws") + LIVE) as socket:
            socket.send(pcm(tones(30)))
            assert slow.begun.wait(30)
        wait_until(lambda: running.service.active == 0)
        slow.release.set()
        assert slow.batches == [1]


def test_a_drain_transcribes_what_was_heard(tmp_path: Path) -> None:
    with serving(tmp_path, registered) as running:
        with connect(running.url.replace("http", "ws") + LIVE) as socket:
            socket.send(pcm(tones(3)))
            assert json.loads(socket.recv(30))["type"] == "ready"
            running.server.drain()
            said = rest_of(socket)
            assert socket.close_code == 1012
        assert [m["type"].rpartition(".")[2] for m in said] == ["segment", "done"]
        assert said[-1]["text"] == "hello"


def test_key_is_asked_for(tmp_path: Path) -> None:
    with serving(tmp_path, registered, key="right") as running:
        address = running.url.replace("http", "ws") + LIVE
        with pytest.raises(Exception, match="401"):
            connect(address).__enter__()
        with pytest.raises(Exception, match="403"):
            connect(address, origin="https://evil.example").__enter__()  # type: ignore[arg-type]
        with connect(address, additional_headers={"Authorization": "Bearer right"}) as socket:
            socket.send(pcm(tones(3)))
            assert json.loads(socket.recv(30))["type"] == "ready"
