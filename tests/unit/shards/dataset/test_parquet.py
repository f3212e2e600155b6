"""Tables as Parquet bytes."""

import subprocess
import sys

import pyarrow as pa
import pytest

from shards.dataset import parquet

TABLE = pa.table({"key": ["a", "b"], "n": [1, 2]}).replace_schema_metadata({"made": "here"})


def test_table_round_trips_with_its_metadata():
    data = parquet.to_bytes(TABLE)
    assert parquet.from_bytes(data).equals(TABLE, check_metadata=True)
    assert parquet.metadata(data) == {b"made": b"here"}
    assert parquet.to_bytes(TABLE) == data
    assert parquet.metadata(parquet.to_bytes(TABLE.replace_schema_metadata(None))) == {}


@pytest.mark.parametrize("read", [parquet.from_bytes, parquet.metadata])
@pytest.mark.parametrize("keep", [0, 20, -1])
def test_truncated_file_is_an_error(read, keep):
    with pytest.raises((pa.ArrowException, OSError)):
        read(parquet.to_bytes(TABLE)[:keep])


def test_reading_starts_no_thread_that_could_outlive_the_interpreter():
    """Such a thread once aborted a finished pack with exit code -6."""
    code = """
import os
import pyarrow as pa
from shards.dataset import parquet
data = parquet.to_bytes(pa.table({"n": list(range(1000))}))
before = len(os.listdir("/proc/self/task"))
for _ in range(3):
    parquet.from_bytes(data), parquet.metadata(data)
print(len(os.listdir("/proc/self/task")) - before)
"""
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "0\n"
