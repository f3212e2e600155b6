"""The command in a process of its own, with a tiny model that has learnt nothing: a request, SIGTERM, its end."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import openai
import pytest

from pipeline.serve.cli import main
from tests.support.serving import fetch, tones, wait_until, wav
from tests.support.training import finished_run, make_base, sharpen


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cli")
    sharpen(make_base(folder / "base").llm)
    return finished_run(folder, speaker_dim=192, extractor="campplus_cn_en_common")


def arguments(run: Path, *more: str) -> list[str]:
    return [str(run), "--port", "0", "--seconds", "4-6", "--vad", "energy", "--device", "cpu", *more]


@pytest.fixture
def process(run: Path, tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-m", "pipeline.serve.cli", *arguments(run, "--alias", "whisper-1")]
    log = (tmp_path / "log").open("w")
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True, env=os.environ) as found:
        yield found
        found.kill()


def test_a_request_is_answered_and_the_server_drains(process: subprocess.Popen[str], tmp_path: Path) -> None:
    """SIGTERM comes while an upload is under way: it is finished and answered, then the exit code is 0."""
    assert process.stdout is not None
    address = process.stdout.readline().strip()
    assert address.startswith("http://127.0.0.1:"), (tmp_path / "log").read_text()
    port = int(address.removesuffix("/v1").rpartition(":")[2])
    with openai.OpenAI(base_url=address, api_key="x", max_retries=0) as client:
        assert [m.id for m in client.models.list()] == ["run", "whisper-1"]
        given = {"model": "whisper-1", "response_format": "verbose_json"}
        found = client.audio.transcriptions.create(file=("a.wav", wav(tones(9))), **given)
        assert found.duration == 9.0
        assert len(found.segments) >= 1
    parts = [
        b'--b\r\nContent-Disposition: form-data; name="model"\r\n\r\nrun\r\n',
        b'--b\r\nContent-Disposition: form-data; name="file"; filename="a.wav"\r\n\r\n' + wav(tones(9)),
        b"\r\n--b--\r\n",
    ]
    with socket.create_connection(("127.0.0.1", port), timeout=60) as connection:
        connection.sendall(
            b"POST /v1/audio/transcriptions HTTP/1.1\r\nHost: x\r\nContent-Type: multipart/form-data; boundary=b\r\n"
            + f"Content-Length: {sum(map(len, parts))}\r\n\r\n".encode()
            + parts[0]
        )
        root = f"http://127.0.0.1:{port}"
        wait_until(lambda: "speakerlm_active_requests 1.0" in fetch(f"{root}/metrics")[1])
        process.send_signal(signal.SIGTERM)
        wait_until(lambda: fetch(f"{root}/health") == (503, {"status": "stopping"}))  # new requests are sent away
        connection.sendall(parts[1] + parts[2])
        answer = b""
        while piece := connection.recv(65536):
            answer += piece
    assert answer.startswith(b"HTTP/1.1 200")
    assert process.wait(60) == 0
    log = (tmp_path / "log").read_text()
    assert "speakerlm-serve: POST /v1/audio/transcriptions 200" in log
    assert "Traceback" not in log


@pytest.mark.parametrize(
    ("more", "says"),
    [
        (["--host", "0.0.0.0"], "set SPEAKERLM_API_KEY"),
        (["--seconds", "0-5"], "too short"),
        (["--host", "192.0.2.1"], "set SPEAKERLM_API_KEY"),
    ],
)
def test_wrong_options_are_refused(
    run: Path, more: list[str], says: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("SPEAKERLM_API_KEY", raising=False)
    assert main(arguments(run, *more)) == 1
    assert says in capsys.readouterr().err


def test_a_port_in_use_is_said_before_the_model_is_loaded(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        assert main([*arguments(run), "--port", str(taken.getsockname()[1])]) == 1
    assert "choose another --port" in capsys.readouterr().err


def test_models_that_cannot_name_people_are_refused(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments(tmp_path)) == 1
    assert "neither a finished run" in capsys.readouterr().err
    for stage, says in ((1, "of stage 1"), (11, "trained on dialogues")):
        other = tmp_path / str(stage)
        shutil.copytree(run, other)
        config = (run / "config.yaml").read_text().replace("stage: 4", f"stage: {stage}")
        (other / "config.yaml").write_text(config.replace("init_from: stage3", "") if stage == 1 else config)
        done = json.loads((run / "done").read_text()) | {"stage": stage}
        (other / "done").write_text(json.dumps(done))
        assert main(arguments(other, "--enrol-dir", str(tmp_path / "people"))) == 1
        assert says in capsys.readouterr().err
