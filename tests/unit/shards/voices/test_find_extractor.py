"""Speaker extractors found by file name or entry point."""

from pathlib import Path

import numpy as np
import pytest

from shards.cli import main
from shards.dataset.dataset import open_dataset
from shards.dataset.reader import read_sample
from shards.errors import ConfigError
from shards.voices.extractors import extractor_names, find_extractor, load_extractor
from tests.support.manifests import make_manifest
from tests.support.plugins import add_distribution

OUTSIDE = """
import numpy as np

from shards.voices.features import log_mel, unit_norm


class LoudestBands:
    id, sha256, dim = "loudest-bands", "f" * 64, 80

    def __init__(self, source):
        self.source = source

    def embed(self, waves):
        return self.embed_features([log_mel(wave) for wave in waves])

    def embed_features(self, features):
        return unit_norm(np.stack([np.exp(f).mean(0) for f in features]))


def load(source, device, cache):
    return LoudestBands(source)
"""


def test_extractors_are_found_by_file_name() -> None:
    assert {"campplus", "campplus-voxceleb", "eres2netv2", "eres2netv2w24s4ep4"} <= set(extractor_names())
    assert all(callable(find_extractor(name).load) for name in extractor_names())  # every module there is an extractor


def test_extractor_of_another_package_packs_a_dataset(tmp_path: Path, monkeypatch) -> None:
    group = "speakerlm.extractors"
    add_distribution(monkeypatch, tmp_path / "site", group, "loudest-bands", "loudest_bands", OUTSIDE)
    assert load_extractor("loudest_bands@some/weights.pt").source == "some/weights.pt"  # type: ignore[attr-defined]
    make_manifest(tmp_path / "m", 5, seconds=1.5)
    command = ["pack", str(tmp_path / "m"), str(tmp_path / "o"), "--extractor", "loudest-bands"]
    assert main([*command, "--max-self-enrolled", "1"]) == 0
    dataset = open_dataset(tmp_path / "o")
    assert dataset.extractor_id() == "loudest-bands"
    vectors = read_sample(dataset, 0, 0).embeddings
    assert vectors is not None
    assert vectors.shape == (2, 80)
    assert np.linalg.norm(vectors.astype(np.float32), axis=1) == pytest.approx(1, abs=0.01)


def test_unknown_extractor_is_an_error_that_lists_the_known_ones() -> None:
    with pytest.raises(ConfigError, match=r"'x-vector' is unknown; known: campplus, campplus-voxceleb, .*entry point"):
        load_extractor("x-vector")


def test_entry_point_without_load_is_an_error(tmp_path: Path, monkeypatch) -> None:
    add_distribution(monkeypatch, tmp_path / "site", "speakerlm.extractors", "nothing", "empty_extractor", "x = 1\n")
    with pytest.raises(ConfigError, match=r"'nothing'.* defines no function load\(source, device, cache\)"):
        find_extractor("nothing")
