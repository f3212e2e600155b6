"""Turns of the page of speakerlm-transcribe, without a browser."""

from __future__ import annotations

import re

from pipeline.transcribe.transcript import ChunkResult, Transcript, TranscriptTurn
from pipeline.transcribe.ui import STYLE, turns_html
from shards.dataset.pages import PALETTE


def turn(speaker: str | None, text: str, chunk: int) -> TranscriptTurn:
    return TranscriptTurn(speaker, float(chunk), chunk + 1.0, text, chunk)


def colours(html: str) -> dict[str, str]:
    found = re.findall(r"--who:(.*?)' .*?<b>(.*?)</b>", html)
    return {name: colour for colour, name in found}


def test_a_person_keeps_the_colour_while_the_transcript_grows() -> None:
    first = ChunkResult(0, 0, 1, "", "end", (turn("Anna", "one", 0), turn("Ben", "two", 0)))
    second = ChunkResult(1, 1, 2, "", "end", (turn("Carla", "three", 1), turn("Ben", "four", 1), turn(None, "x", 1)))
    before = colours(turns_html(Transcript("a", "m", chunks=[first])))
    after = colours(turns_html(Transcript("a", "m", chunks=[first, second])))
    assert {name: after[name] for name in before} == before
    assert len(set(after.values())) == 4


def test_colours_of_turns_are_those_of_all_pages_on_light_and_dark() -> None:
    for light, dark in PALETTE:
        assert light in STYLE
        assert dark in STYLE.partition("prefers-color-scheme: dark")[2]


def test_text_is_escaped() -> None:
    bad = "<script>"
    shown = turns_html(Transcript("a", "m", chunks=[ChunkResult(0, 0, 1, "", "end", (turn(bad, bad, 0),))]))
    assert bad not in shown
