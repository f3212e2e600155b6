import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import shards.spool
from shards.spool import Spool, distinct, doubles

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture(autouse=True)
def small(monkeypatch):
    monkeypatch.setattr(shards.spool, "CHUNK", 32)
    monkeypatch.setattr(shards.spool, "BUCKET", 20)


def spool(values):
    made = Spool(np.uint64)
    for value in values:
        made.append(value)
    return made


@given(st.lists(st.integers(0, 60), max_size=150))
def test_doubles_and_distinct(values):
    made = spool(values)
    want = {v: [i for i, x in enumerate(values) if x == v] for v in values}
    assert sorted(doubles(made)) == sorted(w for w in want.values() if len(w) > 1)
    assert distinct(made) == len(want)


def test_by_position_and_in_chunks():
    made = spool(range(100))
    made.append(2**64 - 1)
    assert len(made) == 101
    assert made.at(np.array([100, 3, 99])).tolist() == [2**64 - 1, 3, 99]
    assert [(first, len(chunk)) for first, chunk in made.chunks()] == [(0, 32), (32, 32), (64, 32), (96, 5)]
    assert np.concatenate([c for _, c in made.chunks()]).tolist() == [*range(100), 2**64 - 1]


def test_planning_takes_no_memory_that_grows_with_the_manifest():
    """A million recordings more; one Python object for each would be 60 MB and more (a bucket of hashes: 24 MB)."""

    def peak(recordings):
        command = [sys.executable, "benchmarks/plan.py", "--recordings", str(recordings)]
        out = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
        told = json.loads(out.splitlines()[-1])["figures"]
        assert told["recordings"] == recordings
        return told["peak_gb"]

    assert peak(1_400_000) - peak(400_000) < 0.03
