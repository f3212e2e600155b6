import json
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shards.errors import ManifestError
from shards.manifests.manifest import RECORDINGS, read_manifest, write_manifest
from shards.packing.partition import LineTable, Parts, permute, read_recordings
from tests.support.manifests import recording


@settings(deadline=None)  # a busy machine
@given(size=st.integers(1, 3000), seed=st.integers(0, 2**63))
def test_permute_is_a_permutation_at_any_size(size, seed):
    assert sorted(permute(np.arange(size), size, seed)) == list(range(size))


def test_the_permutation_is_pinned():
    """Other values would change every dataset."""
    assert permute(np.arange(10), 10, 1).tolist() == [0, 9, 5, 3, 6, 7, 2, 4, 1, 8]
    assert permute(np.array([299_999_999]), 300_000_000, 7).tolist() == [198_270_540]


def test_single_index_is_permuted_as_in_a_batch():
    assert permute(np.array([123]), 1000, 5)[0] == permute(np.arange(1000), 1000, 5)[123]


def test_seeds_give_unrelated_permutations():
    orders = [permute(np.arange(1000), 1000, seed) for seed in range(50)]
    equal = [np.mean(a == b) for i, a in enumerate(orders) for b in orders[:i]]
    assert np.mean(equal) < 0.002  # one in a thousand by chance


def test_neighbours_are_spread_over_parts():
    """Ten sessions of 100 recordings each, ten parts: no part is mostly one session."""
    parts = Parts(1000, 10, seed=3)
    largest = [Counter((parts.lines(p) // 100).tolist()).most_common(1)[0][1] for p in range(10)]
    assert max(largest) < 30


@settings(deadline=None)
@given(recordings=st.integers(1, 500), count=st.integers(1, 20), tasks=st.integers(1, 7))
def test_parts_and_shares_cover_everything_once(recordings, count, tasks):
    parts = Parts(recordings, min(count, recordings), seed=1)
    sizes = [len(parts.lines(p)) for p in range(parts.count)]
    assert max(sizes) - min(sizes) <= 1
    assert sorted(line for p in range(parts.count) for line in parts.lines(p)) == list(range(recordings))
    assert [p for task in range(tasks) for p in parts.share(task, tasks)] == list(range(parts.count))


def manifest(folder, keys, **changes):
    write_manifest(folder, [recording("/a.wav", key=k, **changes) for k in keys], [], {})
    return folder


def test_lines_are_read_by_offset(tmp_path):
    folder = manifest(tmp_path, [f"钥-{i}" for i in range(50)])
    with (folder / RECORDINGS).open("a") as file:
        file.write("\n\n")
    table = LineTable(folder)
    everything = list(read_manifest(folder))
    assert len(table) == 50
    assert list(read_recordings(folder, table.offsets(np.array([49, 0, 7])))) == [
        everything[49],
        everything[0],
        everything[7],
    ]


def test_hash_depends_on_the_content(tmp_path):
    a, b, c = (LineTable(manifest(tmp_path / n, k)).sha256 for n, k in (("1", "xy"), ("2", "xy"), ("3", "xz")))
    assert a == b != c


def test_duplicate_key_is_rejected_with_both_lines(tmp_path):
    with pytest.raises(ManifestError, match=r"key b on records 2 and 4"):
        LineTable(manifest(tmp_path, "abcb"))


def test_text_that_quotes_a_key_is_not_a_key(tmp_path):
    folder = manifest(tmp_path, "ab")
    lines = [json.loads(line) for line in (folder / RECORDINGS).read_text().splitlines()]
    for line in lines:
        line["segments"][0]["text"] = '"key":"same"'
        line["key"] = line.pop("key")  # now the last field
    (folder / RECORDINGS).write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert len(LineTable(folder)) == 2


def test_invalid_manifests_are_rejected(tmp_path):
    with pytest.raises(ManifestError, match=r"recordings\.jsonl"):
        LineTable(tmp_path)
    (tmp_path / RECORDINGS).write_text("")
    with pytest.raises(ManifestError, match="empty manifest"):
        LineTable(tmp_path)
    (tmp_path / RECORDINGS).write_text('{"name": 1}\n')
    with pytest.raises(ManifestError, match="no key"):
        LineTable(tmp_path)


def test_sizes_of_parts(tmp_path):
    table = LineTable(manifest(tmp_path, [str(i) for i in range(100)], duration=10.0))
    assert table.estimate_bytes() == pytest.approx(192_000)
    assert Parts.plan(table, 1, samples_per_shard=30, bytes_per_shard=1e9).count == 4
    assert Parts.plan(table, 1, samples_per_shard=30, bytes_per_shard=10 * 192_001).count == 10
    assert Parts.plan(table, 1, samples_per_shard=30, bytes_per_shard=1).count == 100
