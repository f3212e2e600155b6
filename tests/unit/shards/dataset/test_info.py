"""The summary of a dataset."""

import json
from pathlib import Path

import pytest

from shards.cli import main
from shards.dataset.dataset import open_dataset
from shards.errors import ConfigError
from tests.support.corpora import audio
from tests.support.datasets import make_dataset


@pytest.fixture
def dataset(tmp_path):
    return make_dataset(tmp_path / "d", samples=8, samples_per_shard=4)


def test_info(dataset, capsys):
    assert main(["info", str(dataset.url), "--json"]) == 0
    summary = json.loads(capsys.readouterr().out)
    assert (summary["samples"], summary["shards"], summary["samples_per_corpus"]) == (8, 2, {"synthetic": 8})
    assert sum(summary["samples_by_number_of_speakers"].values()) == 8
    rows = [row for shard in (0, 1) for row in dataset.index(shard).to_pylist()]
    assert summary["sessions"] == len({(row["corpus"], row["session"]) for row in rows})
    assert summary["speakers"] == len({s for row in rows for s in row["speakers"]})
    assert main(["info", str(dataset.url)]) == 0
    assert "synthetic: 8" in capsys.readouterr().out


@pytest.fixture
def manifest(tmp_path: Path) -> Path:
    audio(tmp_path / "a.wav", 3)
    row = {"audio_filepath": "a.wav", "text": "hello", "speaker": "ann"}
    (tmp_path / "train.jsonl").write_text("\n".join(json.dumps(row | extra) for extra in ({}, {"offset": 9})))
    assert main(["prepare", "jsonl", str(tmp_path / "train.jsonl"), str(tmp_path / "out"), "--name", "c"]) == 0
    return tmp_path / "out/train"


def test_info_on_a_manifest_says_what_it_is(manifest: Path, capsys) -> None:
    capsys.readouterr()
    assert main(["info", str(manifest)]) == 0
    out = capsys.readouterr().out
    assert out.startswith(
        f"{manifest}: a manifest, recordings that are not packed yet; speakerlm-shards pack {manifest}"
    )
    assert "1 recordings of 1 sessions, 1 speakers" in out
    assert "skipped 1 × recording outside its audio file" in out
    assert main(["info", str(manifest), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["recordings"] == 1
    assert main(["clips", str(manifest), str(manifest.parent / "clips"), "--seconds", "1-2"]) == 0
    capsys.readouterr()
    assert main(["info", str(manifest.parent / "clips")]) == 0
    assert "clip_rule: 1-2 s" in capsys.readouterr().out
    (manifest / "audit.json").write_text("{")
    assert main(["info", str(manifest)]) == 1
    assert "audit.json" in capsys.readouterr().err


def test_manifest_in_place_of_a_dataset_is_named_in_the_error(manifest: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="a manifest, not a dataset; pack it first: speakerlm-shards pack"):
        open_dataset(manifest)
    assert main(["info", str(tmp_path)]) == 1
