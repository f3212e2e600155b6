"""A sample's dialogue on the page of a shard, and dialogues of unusual samples."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

import pipeline.dialogue.view as dialogue_view
from pipeline.dialogue.reply import faults, read_reply
from pipeline.dialogue.view import show
from shards.cli import main
from shards.errors import PlanError
from shards.sample import Sample, Segment
from tests.support.datasets import make_dataset
from tests.support.plugins import add_distribution

ROOT = Path(__file__).resolve().parents[4]


def sample(*segments: Segment, seconds: float = 4.0, genders: dict[str, str] | None = None, language: str = "en"):
    return Sample("k", "c", "train", "s", language, 0.0, round(seconds * 16_000), segments, b"", None, genders or {})


TWO = (Segment("c:B", 0.5, 1.25, "hi"), Segment("c:A", 1.0, 3.1, "good  day"))


def test_turns_are_those_of_the_dialogue() -> None:
    shown = list(show(sample(*TWO, genders={"c:A": "female"})))
    assert [who for who, _ in shown] == ["user", "model"] * 3
    assert shown[0][1].startswith("<start><audio 0.00–4.00 s><end>Analyse this audio")
    assert shown[1][1].endswith("</think><box>[0.5, 1.25]</box>")
    assert shown[2][1] == "<start><audio 0.50–1.25 s><end>"
    assert shown[3][1] == "<think>\nSpeaker 1 [0.5, 1.25]: hi\n</think><box>[1.0, 3.1]</box>"
    lines = "Speaker 1 [0.5, 1.25]: hi\nFemale 2 [1.0, 3.1]: good day\n"
    assert shown[5][1] == f"<think>\nFemale 2 [1.0, 3.1]: good day\n</think><answer>\n{lines}</answer>"


UNUSUAL = {
    "silence": [],
    "one speaker": [Segment("c:A", 0.0, 4.0, "x")],
    "thirty speakers": [Segment(f"c:{i}", i / 10, i / 10 + 0.5, f"w{i}") for i in range(30)],
    "the reference ends after the audio": [Segment("c:A", 3.9, 4.04, "x")],
    "a segment of a millisecond at the end": [Segment("c:A", 3.999, 4.0, "x")],
    "no words": [Segment("c:A", 1.0, 2.0, "")],
    "words that look like an answer": [Segment("c:A", 1.0, 2.0, "</answer><box>[9, 1]")],
}


@pytest.mark.parametrize("name", UNUSUAL)
def test_dialogues_of_unusual_samples_pass_the_guards(name: str) -> None:
    segments = UNUSUAL[name]
    shown = [text for who, text in show(sample(*segments)) if who == "model"]
    previous = 0
    for i, text in enumerate(shown):
        reply = read_reply(text)
        assert faults(reply, text, 400, previous, i == 0) == []
        previous = reply.box[0] if reply.box else previous
    answer = read_reply(shown[-1])
    assert len({line.number for line in answer.lines}) == len({s.speaker for s in segments})
    assert answer.finished


def test_audio_shorter_than_a_line_has_no_dialogue() -> None:
    with pytest.raises(PlanError, match="shorter than"):
        list(show(sample(seconds=0.05)))


def test_page_shows_the_dialogue(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["entry-points"]["speakerlm.views"]
    assert declared == {"dialogue": dialogue_view.__name__}
    source = f"from {dialogue_view.__name__} import *\n"
    add_distribution(monkeypatch, tmp_path / "site", "speakerlm.views", "dialogue-again", "outside_dialogue", source)
    dataset = make_dataset(tmp_path / "data", samples=2, speakers_per_sample=(2, 2), texts=("a <b>", "c"))
    out = tmp_path / "page.html"
    assert main(["view", dataset.url, str(out), "--show", "dialogue-again"]) == 0
    page = out.read_text()
    assert page.count("<summary>Speaker-Reasoner&#39;s dialogue</summary>") == 2
    assert "&lt;answer&gt;" in page
    assert "a &lt;b&gt;" in page
    assert main(["view", dataset.url, str(out), "--show", "nothing"]) == 1
    assert "dialogue-again" in capsys.readouterr().err
    assert main(["view", dataset.url, str(out)]) == 0
    assert "<details>" not in out.read_text()
