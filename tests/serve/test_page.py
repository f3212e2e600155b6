"""speakerlm-transcribe --ui on a real vLLM: the command in its own process, the page's events by Gradio's client."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from benchmarks.support.servers import free_ports
from pipeline.transcribe.cli import main as transcribe
from shards.sample import SAMPLE_RATE
from tests.support.fixed_answer import always_answer
from tests.support.serving import fetch, wait_until, wav
from tests.support.speech import package_cache
from tests.support.tiny import make_base
from tests.support.training import finished_run
from tests.support.voices import PEOPLE, enrolment, talk

MOST_PEOPLE = 8
INTERRUPTIBLE = ("env", "--default-signal=INT")  # a shell's background jobs are born with the signal ignored
CHUNKS = ("--seconds", "4-6", "--naming", "voice", "--same-voice", "0.3", "--device", "cpu")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``run``, whose every chunk has one turn of one speaker; a conversation of two people, and the voice of one."""
    folder = tmp_path_factory.mktemp("page")
    always_answer(make_base(folder / "base", heads=2).llm, "spk0: yes")
    finished_run(folder, speaker_dim=192, extractor="campplus_cn_en_common")
    wave, _ = talk(PEOPLE[:2], 6)
    (folder / "meeting.wav").write_bytes(wav(wave[: 25 * SAMPLE_RATE]))
    enrolment(folder, PEOPLE[0])
    return folder


@pytest.fixture(scope="module")
def address(folder: Path) -> Iterator[str]:
    (port,) = free_ports(1)
    command = [sys.executable, "-m", "pipeline.transcribe.cli", "--ui", "--engine", "vllm", "--port", str(port)]
    command += ["--model", str(folder / "run"), "--cache", str(package_cache()), *CHUNKS]
    found = f"http://127.0.0.1:{port}"

    def up() -> bool:
        assert process.poll() is None, (folder / "log").read_text()
        try:
            return fetch(found)[0] == 200
        except OSError:
            return False

    environment = os.environ | {"SPEAKERLM_CACHE": str(folder / "cache")}
    with (
        (folder / "log").open("w") as log,
        subprocess.Popen([*INTERRUPTIBLE, *command], stderr=log, stdout=log, env=environment) as process,
    ):
        wait_until(up, 120)
        yield found
        process.send_signal(signal.SIGINT)
        try:
            assert process.wait(60) == 0, (folder / "log").read_text()
        finally:
            process.kill()


def ask(address: str, folder: Path) -> Any:
    """Begin a transcription as a click on the page does."""
    from gradio_client import Client, handle_file

    people = ["Carlo", handle_file(folder / f"{PEOPLE[0]}-0.wav"), *[None] * 2 * (MOST_PEOPLE - 1)]
    client = Client(address, verbose=False, download_files=str(folder / "downloads"))
    return client.submit(handle_file(folder / "meeting.wav"), *people, api_name="/work")


def transcript_of(answer: Any) -> dict[str, Any]:
    (path,) = (p for p in answer[3] if p.endswith(".json") and not p.endswith(".seglst.json"))
    return json.loads(Path(path).read_text())


@pytest.fixture(scope="module")
def expected(folder: Path) -> dict[str, Any]:
    """What the command writes with transformers."""
    arguments = [str(folder / "meeting.wav"), "--model", str(folder / "run"), "--out", str(folder / "out")]
    arguments += ["--enrol", f"Carlo={folder / f'{PEOPLE[0]}-0.wav'}", "--cache", str(package_cache()), "--batch", "1"]
    assert transcribe([*arguments, *CHUNKS]) == 0
    return json.loads((folder / "out" / "meeting.json").read_text())


def test_pages_of_two_people_have_the_transcript_of_transformers(
    address: str, folder: Path, expected: dict[str, Any]
) -> None:
    asked = [ask(address, folder) for _ in range(2)]
    for job in asked:
        found = transcript_of(job.result(180))
        assert found["turns"] == expected["turns"]
        assert [c["raw"] for c in found["chunks"]] == [c["raw"] for c in expected["chunks"]]
    assert {t["speaker"] for t in expected["turns"]} == {"Carlo", "Speaker 1"}


def test_a_page_that_is_stopped_and_started_again(address: str, folder: Path, expected: dict[str, Any]) -> None:
    job = ask(address, folder)
    next(iter(job))
    job.cancel()
    again = ask(address, folder)
    assert transcript_of(again.result(180))["turns"] == expected["turns"]
