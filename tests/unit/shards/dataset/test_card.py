"""Dataset cards: what they state is what the data hold, and their code runs."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from shards.cli import main
from shards.dataset.card import dataset_card
from shards.dataset.dataset import Dataset, open_dataset
from shards.dataset.info import summarize
from shards.dataset.verify import dataset_faults
from shards.errors import ConfigError
from tests.support.datasets import make_dataset


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return make_dataset(tmp_path_factory.mktemp("data") / "synthetic", samples=9, seconds=(1.0, 30.0))


def test_numbers_are_those_of_the_indexes(dataset: Dataset) -> None:
    tables = [dataset.index(i) for i in range(len(dataset.shards))]
    speakers = {s for t in tables for row in t["speakers"].to_pylist() for s in row}
    lengths = sorted(n / 16_000 for t in tables for n in t["num_samples"].to_pylist())
    card = dataset_card(dataset)
    for line in (
        "| samples | 9 |",
        f"| hours | {sum(lengths) / 3600:.2f} |",
        f"| length of a sample | {lengths[0]:.2f}–{lengths[-1]:.2f} s |",
        "| languages | zh (9) |",
        f"| speakers | {len(speakers)} |",
        "| synthetic | 9 | not stated |",
        f"| fingerprint | `{dataset.fingerprint()}` |",
    ):
        assert line in card.splitlines()


def test_the_front_matter_is_a_dataset_cards(dataset: Dataset) -> None:
    head = yaml.safe_load(dataset_card(dataset).split("---\n")[1])
    assert head["language"] == ["zh"]
    assert head["license"] == "other"
    assert head["size_categories"] == ["n<1K"]
    assert head["task_categories"] == ["automatic-speech-recognition"]
    assert yaml.safe_load(dataset_card(dataset, {"synthetic": "CC-BY-4.0"}).split("---\n")[1])["license"] == "cc-by-4.0"


def test_the_extractor_is_stated(tmp_path: Path) -> None:
    dataset = make_dataset(tmp_path / "d", samples=2)
    dataset.info["provenance"] |= {"extractor": "campplus", "extractor_dim": 192, "extractor_sha256": "ab", "seed": 7}
    lines = dataset_card(dataset).splitlines()
    assert "| speaker extractor | campplus, 192 numbers, weights' sha256 `ab` |" in lines
    assert "| seed | 7 |" in lines
    dataset.info["provenance"]["extractor"] = None
    assert "| speaker extractor | none: no speaker is enrolled |" in dataset_card(dataset).splitlines()


def test_licences_of_known_corpora_are_those_of_their_readers(
    dataset: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    facts = {"aishell1": 3, "alimeeting": 4, "mine": 2}
    monkeypatch.setattr("shards.dataset.card.summarize", lambda d: summarize(d) | {"samples_per_corpus": facts})
    card = dataset_card(dataset, {"mine": "by | agreement"})
    rows = ("| aishell1 | 3 | apache-2.0 |", "| alimeeting | 4 | cc-by-sa-4.0 |", "| mine | 2 | by \\| agreement |")
    assert set(rows) <= set(card.splitlines())
    assert yaml.safe_load(card.split("---\n")[1])["license"] == "other"


def test_the_snippets_run(dataset: Dataset, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    monkeypatch.chdir(Path(dataset.url).parent)
    ours, plain = re.findall("```python\n(.*?)```", dataset_card(dataset), re.DOTALL)
    exec(ours, {})
    key = dataset.index(0)["key"][0].as_py()
    assert capsys.readouterr().out.startswith(f"{key} ")
    exec(plain, {})
    assert capsys.readouterr().out.startswith(f"{key} ")


def test_the_command_writes_next_to_the_shards(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    dataset = make_dataset(tmp_path / "d", samples=3)
    folder = str(tmp_path / "d")
    assert main(["card", folder, "--licence", "synthetic=cc0-1.0"]) == 0
    assert (tmp_path / "d/README.md").read_text() == dataset_card(dataset, {"synthetic": "cc0-1.0"})
    assert main(["card", folder, "--out", "-"]) == 0
    assert dataset_card(dataset) in capsys.readouterr().out
    assert main(["card", folder, "--out", str(tmp_path / "none/card.md")]) == 1
    assert main(["card", folder, "--licence", "synthetic"]) == 1
    assert "expected CORPUS=TEXT" in capsys.readouterr().err
    assert list(dataset_faults(open_dataset(folder))) == []


def test_a_licence_of_another_corpus_is_refused(dataset: Dataset) -> None:
    with pytest.raises(ConfigError, match="holds no corpus other; it holds synthetic"):
        dataset_card(dataset, {"other": "mit"})
