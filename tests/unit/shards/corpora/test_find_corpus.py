"""Corpora found by file name or entry point."""

from pathlib import Path

import pytest

from shards.cli import main
from shards.corpora import corpus_names, find_corpus
from shards.errors import ConfigError
from tests.support.corpora import audio, prepare
from tests.support.plugins import add_distribution

OUTSIDE = '''
from shards.manifests.manifest import SpeakerInfo
from shards.manifests.utterances import Utterance, Utterances


def prepare(root, out, options):
    """One manifest: NAME.wav is speaker NAME, who says the name."""
    utterances = Utterances("names", "all", "en", [], options)
    utterances.items = [
        Utterance(p.stem, p, SpeakerInfo(f"names:{p.stem}", "names", "en"), p.stem, p.stem)
        for p in sorted(root.glob("*.wav"))
    ]
    yield utterances.prepared("all")
'''


def test_corpora_are_found_by_file_name() -> None:
    assert "packaged-speech" in corpus_names()
    assert all(callable(find_corpus(name)) for name in corpus_names())  # every module there is a corpus
    assert not {"fetch", "prepare", "source"} & set(corpus_names())
    with pytest.raises(ConfigError, match=r"known: .*packaged-speech"):
        find_corpus("fetch")


def test_corpus_of_another_package_is_prepared_by_the_command(tmp_path: Path, monkeypatch, capsys) -> None:
    add_distribution(monkeypatch, tmp_path / "site", "speakerlm.corpora", "spoken-names", "names_corpus", OUTSIDE)
    with pytest.raises(SystemExit):
        main(["prepare", "--help"])
    assert "spoken-names" in capsys.readouterr().out
    audio(tmp_path / "in/ann.wav", 2)
    audio(tmp_path / "in/bob.wav", 1)
    made = prepare("spoken_names", tmp_path / "in", tmp_path / "out")["all"]
    assert [made.texts(key) for key in ("ann", "bob")] == [[("names:ann", "ANN")], [("names:bob", "BOB")]]
    assert (made.audit["recordings"], made.audit["text"]["policy"]) == (2, "plain")


def test_entry_point_without_prepare_is_an_error(tmp_path: Path, monkeypatch) -> None:
    add_distribution(monkeypatch, tmp_path / "site", "speakerlm.corpora", "nothing", "empty_corpus", "x = 1\n")
    with pytest.raises(ConfigError, match=r"'nothing'.* defines no function prepare\(root, out, options\)"):
        find_corpus("nothing")
