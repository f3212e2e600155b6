import json
import subprocess
import sys
from pathlib import Path

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from shards.spool import Spool, count_distinct, find_duplicates

ROOT = Path(__file__).resolve().parents[3]


def spool(values):
    made = Spool(np.uint64, chunk=32)
    for value in values:
        made.append(value)
    return made


@given(st.lists(st.integers(0, 60), max_size=150))
def test_find_duplicates_and_count_distinct(values):
    made = spool(values)
    want = {v: [i for i, x in enumerate(values) if x == v] for v in values}
    assert sorted(find_duplicates(made, bucket_size=20)) == sorted(w for w in want.values() if len(w) > 1)
    assert count_distinct(made, bucket_size=20) == len(want)


def test_reads_by_position_and_in_chunks():
    made = spool(range(100))
    made.append(2**64 - 1)
    assert len(made) == 101
    assert made.at(np.array([100, 3, 99])).tolist() == [2**64 - 1, 3, 99]
    assert [(first, len(chunk)) for first, chunk in made.chunks()] == [(0, 32), (32, 32), (64, 32), (96, 5)]
    assert np.concatenate([c for _, c in made.chunks()]).tolist() == [*range(100), 2**64 - 1]


def test_planning_memory_does_not_grow_with_the_manifest():
    """A million recordings more: one Python object each would take 60 MB or more (a bucket of hashes: 24 MB)."""

    def peak(recordings):
        command = [sys.executable, "benchmarks/pack_plan.py", "--recordings", str(recordings)]
        out = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
        figures = json.loads(out.splitlines()[-1])["figures"]
        assert figures["recordings"] == recordings
        return figures["peak_gb"]

    assert peak(1_400_000) - peak(400_000) < 0.03
