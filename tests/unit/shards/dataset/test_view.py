"""The page of a shard is self-contained and correct."""

import base64
import tempfile
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from shards.cli import main
from shards.dataset.dataset import Dataset, open_dataset
from shards.dataset.reader import read_sample
from shards.dataset.view import choose, cosines, short_name
from shards.sound.audio import decode
from tests.support.datasets import make_dataset
from tests.support.pages import checked_page
from tests.support.s3 import fake_s3


class Found(HTMLParser):
    """Sources, bars, words of turns, cells."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.sources: list[str] = []
        self.bars: list[float] = []
        self.words: list[str] = []
        self.cells: list[str] = []
        self._inside: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        if tag == "audio":
            self.sources.append(values["src"] or "")
        elif values.get("class") == "bar":
            self.bars.append(float(values["data-at"] or "nan"))
        self._inside.append(tag)

    def handle_endtag(self, tag: str) -> None:
        while self._inside and self._inside.pop() != tag:
            pass

    def handle_data(self, data: str) -> None:
        if self._inside[-3:] == ["li", "button", "span"]:
            self.words.append(data)
        elif self._inside[-1:] == ["td"]:
            self.cells.append(data)


@pytest.fixture
def dataset(tmp_path: Path) -> Dataset:
    texts = ("今天<b>下午</b>开会", 'good & "morning"')
    return make_dataset(tmp_path / "data", samples=7, speakers_per_sample=(2, 3), texts=texts)


def test_page_contains_audio_turns_words_and_cosines(dataset: Dataset, tmp_path: Path) -> None:
    out = tmp_path / "page.html"
    assert main(["view", dataset.url, str(out), "--samples", "3"]) == 0
    text = out.read_text()
    page = Found(text)
    checked_page(text)
    samples = [read_sample(dataset, 0, row) for row in (0, 3, 6)]
    assert [base64.b64decode(s.partition(",")[2]) for s in page.sources] == [s.audio for s in samples]
    assert len(decode(base64.b64decode(page.sources[0].partition(",")[2]))) == samples[0].num_samples
    assert page.words == [x.text for s in samples for x in s.segments]  # markup in words is text
    assert sorted(page.bars) == sorted(round(x.start, 3) for s in samples for x in s.segments)
    first = samples[0].embeddings
    assert first is not None
    vectors = first.astype(np.float32)
    assert page.cells[: len(vectors)] == [f"{v:.2f}" for v in vectors[0] @ vectors.T]


def test_a_person_keeps_the_colour_and_the_headline_counts_persons(dataset: Dataset, tmp_path: Path) -> None:
    assert main(["view", dataset.url, str(tmp_path / "p.html"), "--samples", "7"]) == 0
    page = checked_page((tmp_path / "p.html").read_text())
    people = {short_name(s) for row in range(7) for s in read_sample(dataset, 0, row).speakers}
    seen: dict[str, set[str]] = {}
    for bar in page.having(cls="bar"):
        seen.setdefault(bar["title"].partition(",")[0], set()).add(bar["style"].partition("--who:")[2])
    assert seen.keys() == people
    assert all(len(colours) == 1 for colours in seen.values())
    assert len(page.having(cls="tile")) == 3
    assert page.text.count("Speakers") > 0
    assert len(page.having(cls="time")) == 7
    assert all("min-width" in t["style"] for t in page.having(cls="time"))


def test_two_persons_of_one_short_name_are_both_in_the_legend(
    dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shards.dataset.view.short_name", lambda speaker: "S1")
    assert main(["view", dataset.url, str(tmp_path / "p.html"), "--samples", "7"]) == 0
    page = checked_page((tmp_path / "p.html").read_text())
    people = {s for row in range(7) for s in read_sample(dataset, 0, row).speakers}
    shown = [a["style"] for a in page.having("li") if "--who" in a.get("style", "")]
    assert len(shown) == len(people)
    assert len(set(shown)) == len(people)


def test_cosines_with_the_bank(dataset: Dataset) -> None:
    sample = read_sample(dataset, 0, 0)
    found = cosines(sample, dataset)
    assert found is not None
    assert sample.embeddings is not None
    for i, speaker in enumerate(sample.speakers):
        theirs = np.asarray(dataset.speakers.vectors[dataset.speakers.row(speaker)], np.float32)  # type: ignore[union-attr]
        expected = theirs @ sample.embeddings[i].astype(np.float32)
        assert found.bank[i] == pytest.approx(float(expected), abs=2e-3)
        assert found.own[i][i] == pytest.approx(1, abs=1e-5)


def test_samples_by_key_and_unknown_keys(dataset: Dataset, tmp_path: Path, capsys) -> None:
    keys = dataset.index(0)["key"].to_pylist()
    assert choose(dataset, 0, 3, [keys[4], keys[1]]) == [4, 1]
    assert main(["view", dataset.url, str(tmp_path / "p.html"), "--key", "unknown"]) == 1
    assert "has no sample 'unknown'" in capsys.readouterr().err
    assert main(["view", dataset.url, str(tmp_path / "p.html"), "--shard", "5"]) == 1
    assert "has shards 0 to 0" in capsys.readouterr().err


def test_page_without_speaker_vectors(tmp_path: Path) -> None:
    plain = make_dataset(tmp_path / "asr", samples=2, speakers_per_sample=(1, 1), dim=0)
    assert main(["view", plain.url, str(tmp_path / "p.html")]) == 0
    text = (tmp_path / "p.html").read_text()
    assert text.count("no speaker vectors") == 2
    assert len(Found(text).sources) == 2


def test_page_of_a_shard_on_s3(dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with fake_s3() as server:
        for name, value in (("ENDPOINT_URL", server.endpoint), ("ACCESS_KEY_ID", "id"), ("SECRET_ACCESS_KEY", "s")):
            monkeypatch.setenv(f"AWS_{name}", value)
        monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "node"))
        root = Path(dataset.url)
        for path in (p for p in root.rglob("*") if p.is_file()):
            server.objects[f"data/{path.relative_to(root).as_posix()}"] = path.read_bytes()
        assert main(["view", "s3://bucket/data", str(tmp_path / "s3.html")]) == 0
        assert main(["view", dataset.url, str(tmp_path / "local.html")]) == 0
        assert open_dataset("s3://bucket/data").samples == 7
    there, here = (Found((tmp_path / f"{n}.html").read_text()) for n in ("s3", "local"))
    assert there.sources == here.sources
    assert there.words == here.words
    assert there.cells == here.cells
