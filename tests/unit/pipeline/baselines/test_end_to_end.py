"""Systems behind an endpoint: what is sent, faults of a scripted server, resumption, cost, known speakers."""

from __future__ import annotations

import base64
import io
import json
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from pipeline.baselines.audio_endpoint import AudioEndpoint, wav
from pipeline.baselines.cli import main
from pipeline.baselines.systems import PROMPTS, SYSTEMS, Prompt, load_prompt
from pipeline.evaluation.outputs import outputs
from pipeline.evaluation.scores import score_decoded
from shards.errors import ConfigError, ModelError
from tests.support.http_server import Step, scripted

VIBEVOICE = '[{"Start":0,"End":1,"Speaker":0,"Content":"how are you"},{"Start":1,"End":2,"Speaker":1,"Content":"fine"}]'
DIARIZED = json.dumps({"task": "transcribe", "text": "hi", "segments": [
    {"type": "transcript.text.segment", "id": "1", "start": 0, "end": 1, "text": "how are you", "speaker": "Mike"},
    {"type": "transcript.text.segment", "id": "2", "start": 1, "end": 2, "text": "fine", "speaker": "Lucy"},
]})  # fmt: skip
WAVE = np.sin(np.arange(32000) / 9).astype(np.float32) / 4


def stream(text: str, end: str | None = "stop") -> Step:
    """Return an answer as events, three letters each, or no end if `end` is None."""
    pieces = [{"choices": [{"delta": {"content": text[i : i + 3]}}]} for i in range(0, len(text), 3)]
    if end:
        pieces.append({"choices": [{"delta": {}, "finish_reason": end}]})
        pieces.append({"choices": [], "usage": {"prompt_tokens": 100, "completion_tokens": 20}})
    body = "".join(f"data: {json.dumps(p)}\n\n" for p in pieces) + ("data: [DONE]\n\n" if end else "")
    return {"body": body, "headers": {"Content-Type": "text/event-stream"}}


def endpoint(url: str, name: str = "vibevoice", **more: Any) -> AudioEndpoint:
    return AudioEndpoint(url, "m", SYSTEMS[name], **{"sleep": lambda s: None, "timeout_s": 2.0, **more})


@pytest.fixture
def meetings(tmp_path: Path) -> list[str]:
    paths = []
    lines = []
    for name in "abc":
        soundfile.write(path := tmp_path / f"{name}.wav", WAVE, 16000)
        lines += [f"{name} 1 Mike 0 1 how are you\n", f"{name} 1 Lucy 1 2 fine\n"]
        paths.append(str(path))
    (tmp_path / "ref.stm").write_text("".join(lines))
    return paths


def test_every_system_has_a_format_and_its_prompt():
    for system in SYSTEMS.values():
        assert system.format == "raw" or system.format in outputs()
        assert load_prompt(system, None).of(2.5).count("{duration") == 0
    assert {p.stem for p in PROMPTS.iterdir()} == {s.prompt for s in SYSTEMS.values()} - {""}


def test_faults_of_a_server_are_retried_and_the_streamed_text_is_whole():
    waits: list[float] = []
    script: list[Step] = [
        {"status": 429, "headers": {"Retry-After": "7"}}, {"status": 503, "body": "busy"}, {"body": "no json"},
        {"body": '{"choices": []}'}, {**stream(VIBEVOICE), "cut": 40}, {**stream(VIBEVOICE), "stall": 3.0},
        stream(VIBEVOICE, end=None), stream(VIBEVOICE),
    ]  # fmt: skip
    with scripted(script) as (url, seen):
        reply = endpoint(url, attempts=9, sleep=waits.append).hear(WAVE, "2.00 seconds")
    assert (reply.text, reply.stop, reply.attempts) == (VIBEVOICE, "end", 8)
    assert reply.usage == {"prompt_tokens": 100, "completion_tokens": 20}
    assert waits == [7.0, 2.0, 4.0, 8.0, 16.0, 32.0, 60.0]
    path, _, body = seen[-1]
    (message,) = json.loads(body)["messages"]
    assert path == "/chat/completions"
    assert [p["type"] for p in message["content"]] == ["audio_url", "text"]
    sound = base64.b64decode(message["content"][0]["audio_url"]["url"].partition(",")[2])
    heard, rate = soundfile.read(io.BytesIO(sound))
    assert rate == 16000
    assert np.abs(heard - WAVE).max() < 1e-4


def test_one_json_instead_of_a_stream_and_an_answer_at_the_limit():
    whole = {"body": json.dumps({"choices": [{"message": {"content": "A: x"}, "finish_reason": "length"}]})}
    with scripted([whole]) as (url, seen):
        reply = endpoint(url, "gemini").hear(WAVE, "p")
    assert (reply.text, reply.stop) == ("A: x", "cut")
    assert json.loads(seen[0][2])["messages"][0]["content"][0]["input_audio"]["format"] == "wav"


def test_a_refusal_is_final_and_no_message_holds_the_key():
    with scripted([{"status": 401, "body": "bad key sk-secret"}]) as (url, seen):
        asked = endpoint(url, key="sk-secret")
        with pytest.raises(ModelError, match=r"HTTP 401: bad key \*\*\*"):
            asked.hear(WAVE, "p")
        assert len(seen) == 1
        assert "sk-secret" not in repr(asked)
    with scripted([{"body": "{}"}]) as (url, seen), pytest.raises(ModelError, match="not in the protocol of audio/tr"):
        endpoint(url, "moss", attempts=2).hear(WAVE, "")
    assert len(seen) == 2


def command(data: list[str], out: Path, url: str, *more: str) -> list[str]:
    reference = str(Path(data[0]).parent / "ref.stm")
    return ["e2e", *data, str(out), "--endpoint", url, "--reference", reference, *more]


def test_a_command_that_was_stopped_resumes_and_its_rows_are_scored(meetings, tmp_path: Path, monkeypatch, capsys):
    monkeypatch.setenv("MY_KEY", "sk-secret")
    more = (
        "--system",
        "vibevoice",
        "--key-variable",
        "MY_KEY",
        "--at-once",
        "1",
        "--price-in",
        "2",
        "--price-out",
        "5",
    )
    with scripted([stream(VIBEVOICE), {"status": 400, "body": "no"}, stream(VIBEVOICE)]) as (url, seen):
        assert main(command(meetings, tmp_path / "out", url, *more)) == 1
        assert main(command(meetings, tmp_path / "out", url, *more)) == 0
    assert len(seen) == 4
    assert seen[0][1]["Authorization"] == "Bearer sk-secret"
    assert "2.00 seconds audio" in seen[0][2].decode()
    rows = [json.loads(line) for line in (tmp_path / "out" / "no.jsonl").read_text().splitlines()]
    assert [r["key"] for r in rows] == ["a", "b", "c"]
    assert {(r["format"], r["raw"], r["prompt_sha256"]) for r in rows} == {
        ("vibevoice", VIBEVOICE, load_prompt(SYSTEMS["vibevoice"], None).sha256)
    }
    cost = json.loads((tmp_path / "out" / "cost.json").read_text())
    assert (cost["tokens_in"], cost["tokens_out"], cost["dollars"]) == (300, 60, pytest.approx(0.0009))
    timing = json.loads((tmp_path / "out" / "decode.json").read_text())["timing"]["no"]
    assert (timing["clips"], timing["audio_seconds"]) == (3, 6.0)
    (scored,) = score_decoded(tmp_path / "out", normaliser="en")
    assert (scored["cer"], scored["cpcer"]) == (0, 0)
    printed = capsys.readouterr()
    files = [f.read_text() for f in (tmp_path / "out").rglob("*") if f.is_file()]
    assert not any("sk-secret" in text for text in (printed.out, printed.err, *files))
    (prompt := tmp_path / "other.txt").write_text("Write.")
    assert main(command(meetings, tmp_path / "out", url, *more, "--prompt", str(prompt))) == 1
    assert "decoded with another weights" in capsys.readouterr().err


def test_clips_are_asked_about_at_once_and_no_more(meetings, tmp_path: Path):
    active, most, lock = 0, 0, threading.Lock()
    original = AudioEndpoint.hear

    def counted(self: AudioEndpoint, wave: np.ndarray, prompt: str) -> Any:
        nonlocal active, most
        with lock:
            active += 1
            most = max(most, active)
        time.sleep(0.05)
        try:
            return original(self, wave, prompt)
        finally:
            with lock:
                active -= 1

    with pytest.MonkeyPatch.context() as patch, scripted([stream(VIBEVOICE)]) as (url, seen):
        patch.setattr(AudioEndpoint, "hear", counted)
        assert main(command(meetings, tmp_path / "out", url, "--system", "vibevoice", "--at-once", "2")) == 0
    assert (most, len(seen)) == (2, 3)


def test_known_speakers_are_references_and_their_names_are_scored(meetings, tmp_path: Path):
    folder = tmp_path / "voices"
    folder.mkdir()
    for name in ("Mike", "Lucy"):
        soundfile.write(folder / f"{name}.wav", np.tile(WAVE, 2), 16000)
    more = ("--system", "gpt-4o-transcribe-diarize", "--known-speakers", str(folder))
    with scripted([{"body": DIARIZED}]) as (url, seen):
        assert main(command(meetings, tmp_path / "out", url, *more)) == 0
    path, _, body = seen[0]
    assert path == "/audio/transcriptions"
    assert body.count(b'name="known_speaker_references[]"') == body.count(b'name="known_speaker_names[]"') == 2
    assert b"diarized_json" in body
    assert wav(np.tile(WAVE, 2))[:4] == b"RIFF"
    (scored,) = score_decoded(tmp_path / "out", normaliser="en")
    assert (scored["mode"], scored["cer"], scored["sacer"]) == ("match", 0, 0)


def test_what_cannot_be_is_refused(meetings, tmp_path: Path, capsys):
    (tmp_path / "empty").mkdir()
    for more, message in (
        (("--system", "gemini", "--known-speakers", str(tmp_path)), "takes no known speakers"),
        (("--system", "moss", "--known-speakers", str(tmp_path / "empty")), "0 files, not 1 to 4"),
        (("--system", "moss", "--prompt", str(tmp_path / "none.txt")), "cannot be read"),
    ):
        assert main(command(meetings, tmp_path / "out", "http://127.0.0.1:1/v1", *more)) == 1
        assert message in capsys.readouterr().err
    with pytest.raises(ConfigError, match="double other braces"):
        Prompt('{"x": 1}').of(1.0)
