"""speakerlm-serve on a real vLLM: OpenAI's client, names from enrolment, the answers of transformers."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import openai
import pytest

from benchmarks.support.servers import free_ports
from pipeline.serve.cli import main
from shards.sample import SAMPLE_RATE
from tests.support.fixed_answer import always_answer
from tests.support.serving import fetch, wait_until, wav
from tests.support.speech import package_cache
from tests.support.tiny import make_base
from tests.support.training import finished_run
from tests.support.voices import PEOPLE, enrolment, talk

NAMES = ("Carlo", "June")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``run``, whose every chunk has one turn of one speaker, and a clip of each of two people."""
    folder = tmp_path_factory.mktemp("serve")
    always_answer(make_base(folder / "base", heads=2).llm, "spk0: yes")
    finished_run(folder, speaker_dim=192, extractor="campplus_cn_en_common")
    for person in PEOPLE[:2]:
        enrolment(folder, person)
    return folder


@pytest.fixture(scope="module")
def meeting() -> bytes:
    wave, _ = talk(PEOPLE[:2], 6)
    return wav(wave[: 25 * SAMPLE_RATE])


def serve(folder: Path, engine: str, work: Callable[[str], Any]) -> Any:
    """Run the command in this process while a client works in a thread; SIGTERM ends it."""
    (port,) = free_ports(1)
    root = f"http://127.0.0.1:{port}"

    def client() -> Any:
        try:
            wait_until(lambda: _healthy(root), 120)
            return work(root)
        finally:
            os.kill(os.getpid(), signal.SIGTERM)

    before = signal.signal(signal.SIGTERM, signal.SIG_IGN)  # if the server does not start
    try:
        with ThreadPoolExecutor(1) as thread:
            found = thread.submit(client)
            arguments = [
                str(folder / "run"), "--port", str(port), "--enrol-dir", str(folder / f"people-{engine}"),
                "--seconds", "4-6", "--naming", "voice", "--same-voice", "0.3", "--device", "cpu",
                "--cache", str(package_cache()), "--engine", engine,
            ]  # fmt: skip
            assert main(arguments) == 0
            return found.result()
    finally:
        signal.signal(signal.SIGTERM, before)


def _healthy(root: str) -> bool:
    try:
        return fetch(f"{root}/health")[0] == 200
    except OSError:
        return False


@pytest.fixture(scope="module")
def answers(folder: Path, meeting: bytes) -> dict[str, Any]:
    """Answers of both engines to the same requests, and figures of the server."""

    def work(root: str) -> dict[str, Any]:
        for name, person in zip(NAMES, PEOPLE, strict=False):
            clip = (folder / f"{person}-0.wav").read_bytes()
            assert fetch(f"{root}/v1/speakers/{name}", "PUT", clip)[0] == 201
        with openai.OpenAI(base_url=f"{root}/v1", api_key="x", max_retries=0, timeout=300) as client:
            given = {"model": "run", "file": ("a.wav", meeting)}
            create = client.audio.transcriptions.create
            with ThreadPoolExecutor(4) as clients:
                asked = [clients.submit(create, response_format="diarized_json", **given) for _ in range(4)]
                found = [a.result().model_dump() for a in asked]
            with pytest.raises(openai.BadRequestError):
                create(model="run", file=("a.wav", b"not audio"))
            left = create(response_format="diarized_json", stream=True, **given)
            next(iter(left))
            left.close()
            wait_until(lambda: "speakerlm_active_requests 0.0" in fetch(f"{root}/metrics")[1])
            streamed = list(create(response_format="diarized_json", stream=True, **given))
        return {"found": found, "streamed": streamed[-1].text, "metrics": fetch(f"{root}/metrics")[1]}

    return {engine: serve(folder, engine, work) for engine in ("vllm", "transformers")}


def test_each_client_gets_the_answer_of_transformers(answers: dict[str, Any]) -> None:
    first, *others = answers["vllm"]["found"]
    assert others == [first] * 3
    assert first == answers["transformers"]["found"][0]
    assert answers["vllm"]["streamed"] == first["text"]
    assert len(first["segments"]) >= 3


def test_names_are_those_of_enrolment(answers: dict[str, Any]) -> None:
    """The LLM writes ``spk0``; the voice of the chunk says who it is."""
    found = answers["vllm"]["found"][0]["segments"]
    assert {s["speaker"] for s in found} == set(NAMES)
    assert {s["text"] for s in found} == {"yes"}


def test_chunks_of_requests_are_written_together(answers: dict[str, Any]) -> None:
    figures = dict(line.rsplit(" ", 1) for line in answers["vllm"]["metrics"].splitlines() if line[0] != "#")
    together = float(figures["speakerlm_batch_chunks_sum"]) / float(figures["speakerlm_batch_chunks_count"])
    assert together > 1
    assert float(figures["speakerlm_waiting_chunks"]) == 0
