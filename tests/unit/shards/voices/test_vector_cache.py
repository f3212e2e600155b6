"""Speaker vectors on disk: damage, kills, writers at once, the bound."""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from shards.voices.vector_cache import FOLDERS, VectorCache

WRITER = """
import sys, hashlib, numpy as np
from pathlib import Path
from shards.voices.vector_cache import VectorCache
cache = VectorCache(Path(sys.argv[1]))
print("ready", flush=True)
number = 0
while True:
    key = hashlib.sha256(str(number % 50).encode()).hexdigest()
    cache.put(key, np.full(192, number % 50, np.float32))
    number += 1
"""


def key(number: int) -> str:
    return hashlib.sha256(str(number).encode()).hexdigest()


def test_round_trip_and_a_missing_folder(tmp_path: Path) -> None:
    cache = VectorCache(tmp_path / "new" / "cache")
    assert cache.get(key(1)) is None
    cache.put(key(1), np.arange(4, dtype=np.float32))
    assert cache.get(key(1)).tolist() == [0, 1, 2, 3]  # type: ignore[union-attr]
    (tmp_path / "file").write_bytes(b"")
    nowhere = VectorCache(tmp_path / "file")
    nowhere.put(key(1), np.zeros(4, np.float32))
    assert nowhere.get(key(1)) is None


@given(st.data())
def test_any_damage_is_a_missing_entry(tmp_path_factory: object, data: st.DataObject) -> None:
    folder = tmp_path_factory.mktemp("cache")  # type: ignore[attr-defined]
    cache = VectorCache(folder)
    cache.put(key(1), np.arange(6, dtype=np.float32))
    (path,) = folder.rglob("*.vector")
    whole = path.read_bytes()
    damaged = data.draw(
        st.one_of(
            st.binary(max_size=60),
            st.integers(0, len(whole) - 1).map(lambda n: whole[:n]),
            st.integers(0, 8 * len(whole) - 1).map(lambda n: _flip(whole, n)),
        ).filter(lambda x: x != whole)
    )
    path.write_bytes(damaged)
    assert cache.get(key(1)) is None


def _flip(data: bytes, bit: int) -> bytes:
    changed = bytearray(data)
    changed[bit // 8] ^= 1 << bit % 8
    return bytes(changed)


def test_an_entry_under_the_name_of_another_is_missing(tmp_path: Path) -> None:
    cache = VectorCache(tmp_path)
    cache.put(key(1), np.zeros(4, np.float32))
    (path,) = tmp_path.rglob("*.vector")
    (tmp_path / key(2)[:2]).mkdir(exist_ok=True)
    path.rename(tmp_path / key(2)[:2] / f"{key(2)[2:]}.vector")
    assert cache.get(key(2)) is None


def _write_all(folder: Path) -> int:
    cache, wrong = VectorCache(folder), 0
    for number in range(200):
        cache.put(key(number % 20), np.full(192, number % 20, np.float32))
        found = cache.get(key((number + 7) % 20))
        wrong += found is not None and found.tolist() != [(number + 7) % 20] * 192
    return wrong


def test_writers_at_once_see_only_whole_entries(tmp_path: Path) -> None:
    with ProcessPoolExecutor(3) as pool:
        assert list(pool.map(_write_all, [tmp_path] * 3)) == [0, 0, 0]
    assert len(list(tmp_path.rglob("*.vector"))) == 20
    assert not list(tmp_path.rglob("*.tmp"))


def test_a_killed_writer_leaves_no_wrong_entry(tmp_path: Path) -> None:
    for wait in (0.01, 0.03, 0.05):
        command = [sys.executable, "-c", WRITER, str(tmp_path)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, env=os.environ) as writer:
            assert writer.stdout is not None
            writer.stdout.readline()
            time.sleep(wait)
            writer.send_signal(signal.SIGKILL)
        for number in range(50):
            found = VectorCache(tmp_path).get(key(number))
            assert found is None or found.tolist() == [number] * 192


def test_the_number_of_entries_is_bounded_and_the_used_ones_stay(tmp_path: Path) -> None:
    cache = VectorCache(tmp_path, entries=8 * FOLDERS)
    used = "ab" + "f" * 62
    left = tmp_path / "ab" / ".killed.tmp"
    cache.put(used, np.zeros(2, np.float32))
    left.write_bytes(b"of a writer that was killed")
    os.utime(left, ns=(0, 0))
    for number in range(200):
        cache.put("ab" + f"{number:062x}", np.zeros(2, np.float32))
        os.utime(tmp_path / "ab" / f"{number:062x}.vector", ns=(number + 1, number + 1))
        assert cache.get(used) is not None
        assert len(list((tmp_path / "ab").iterdir())) <= 8 + 16
    assert not left.exists()
