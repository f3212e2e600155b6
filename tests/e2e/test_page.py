"""The page in a real browser: a recording is uploaded, a person enrolled, the transcript appears, plays, downloads."""

from __future__ import annotations

import json
import threading
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import soundfile

from pipeline.ranks.launch import free_port
from pipeline.transcribe.transcriber import TranscribeOptions, Transcriber
from pipeline.transcribe.ui import serve
from shards.errors import ConfigError
from shards.manifests.clips import ClipRule
from shards.sample import SAMPLE_RATE
from tests.support.speech import package_cache
from tests.support.voices import PEOPLE, Reference, enrolment, extractor, talk


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A conversation of two people, and the voice of one of them."""
    folder = tmp_path_factory.mktemp("page")
    wave, _ = talk(PEOPLE[:2], 8)
    soundfile.write(folder / "meeting.wav", wave, SAMPLE_RATE, subtype="FLOAT")
    enrolment(folder, PEOPLE[0])
    return folder


@pytest.fixture(scope="module")
def address(folder: Path) -> Iterator[str]:
    """The page over real voices; the language model's part is played by the true turns."""
    gradio = pytest.importorskip("gradio")
    wave, said = talk(PEOPLE[:2], 8)
    options = TranscribeOptions(ClipRule((10.0, 14.0), (8.0, 16.0)), naming="voice")
    port = free_port()
    serve(Transcriber(Reference(wave, said), extractor, options, cache=package_cache()), port, block=False)
    yield f"http://127.0.0.1:{port}"
    gradio.close_all()


@pytest.mark.parametrize("width", [1280, 390])
def test_a_recording_becomes_a_transcript(address: str, browser: Any, folder: Path, tmp_path: Path, width: int):
    page = browser.new_page(viewport={"width": width, "height": 900})
    faults: list[str] = []
    page.on("pageerror", lambda error: faults.append(str(error)))
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.goto(address)
    page.locator("#audio input[type=file]").set_input_files(str(folder / "meeting.wav"))
    page.locator("#name-0 input, #name-0 textarea").fill("Carlo")
    page.locator("#voice-0 input[type=file]").set_input_files(str(folder / f"{PEOPLE[0]}-0.wav"))
    for box in ("#audio", "#voice-0"):  # until it is with the server
        page.locator(f"{box} audio").first.wait_for(timeout=60_000, state="attached")
    page.locator("#start").click()
    page.locator(".turn").first.wait_for(timeout=120_000)
    counts = []
    end = time.monotonic() + 240
    while "Done" not in (text := page.locator("#status").inner_text()):
        counts.append(page.locator(".turn").count())
        assert time.monotonic() < end, text
        page.wait_for_timeout(100)
    turns = page.locator(".turn")
    assert turns.count() >= 8
    assert min(counts, default=0) < turns.count()  # it grew
    assert set(page.locator(".turn b").all_inner_texts()) == {"Carlo", "Speaker 1"}

    turn = turns.nth(3)
    start, stop = float(turn.get_attribute("data-start")), float(turn.get_attribute("data-end"))
    turn.click()
    page.wait_for_function("document.querySelector('#player').currentTime > 0")
    at = page.evaluate("document.querySelector('#player').currentTime")
    assert start - 0.1 <= at <= stop + 1

    links = [a.get_attribute("href") for a in page.locator("#files a").all()]
    assert len(links) == 4
    (content,) = [json.loads(urllib.request.urlopen(x).read()) for x in links if x.endswith("/meeting.json")]
    assert len(content["turns"]) == turns.count()
    assert content["enrolled"] == ["Carlo"]

    assert page.evaluate("document.documentElement.scrollWidth") <= width  # nothing sticks out
    assert not faults
    assert all(url.startswith((address, "blob:", "data:")) for url in asked), "the page asks elsewhere"
    page.screenshot(path=str(tmp_path / f"page-{width}.png"), full_page=True)
    page.close()


def test_missing_input_is_reported(address: str, browser: Any):
    page = browser.new_page()
    page.goto(address)
    page.locator("#start").click()
    page.get_by_text("Give a recording first.").wait_for(timeout=30_000)
    page.close()


def test_a_port_in_use_is_explained(address: str):
    with pytest.raises(ConfigError, match="another --port"):
        serve(Transcriber(lambda _: [], extractor), int(address.rsplit(":", 1)[1]), block=False)


def test_stopped_early_it_offers_the_transcript_so_far(browser: Any, folder: Path):
    gradio = pytest.importorskip("gradio")
    wave, said = talk(PEOPLE[:2], 8)
    reference, asked, end = Reference(wave, said), [], threading.Event()

    def slow(prompts):
        asked.append(len(prompts))
        if len(asked) > 1:  # the second chunk takes until the test has seen what it came for
            end.wait(120)
        return reference(prompts)

    port = free_port()
    options = TranscribeOptions(ClipRule((10.0, 14.0), (8.0, 16.0)), naming="voice")
    serve(Transcriber(slow, extractor, options, cache=package_cache()), port, block=False)
    page = browser.new_page()
    try:
        page.goto(f"http://127.0.0.1:{port}")
        page.locator("#audio input[type=file]").set_input_files(str(folder / "meeting.wav"))
        page.locator("#audio audio").first.wait_for(timeout=60_000, state="attached")
        page.locator("#start").click()
        page.locator(".turn").first.wait_for(timeout=120_000)
        page.locator("#stop").click()
        page.get_by_text("Stopped after").wait_for(timeout=60_000)
        page.locator("#files a").first.wait_for(timeout=60_000)
        links = [a.get_attribute("href") for a in page.locator("#files a").all()]
        (content,) = [json.loads(urllib.request.urlopen(x).read()) for x in links if x.endswith("/meeting.json")]
        assert len(content["turns"]) == page.locator(".turn").count() > 0
        assert not content["complete"]
        assert "stopped after" in content["error"]
    finally:
        end.set()
        page.close()
        gradio.close_all()  # the other tests' page too: this test is the last
