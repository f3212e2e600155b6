"""The summary of a dataset."""

import json

import pytest

from shards.cli import main
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
