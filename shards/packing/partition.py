"""Partition of a manifest into shards: a pure function of (manifest, seed, sizes), in constant memory.

All recordings are permuted, so that a shard mixes sessions, and the permuted sequence is cut into parts of equal size;
a part is a shard. Any process can compute any part alone: the permutation is computed, not stored, and the manifest is
read by line through a table of offsets on disk.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from shards.errors import ManifestError
from shards.manifests.manifest import RECORDINGS, Recording, recording_from_json
from shards.sample import SAMPLE_RATE
from shards.spool import Spool, find_duplicates, key_hash
from shards.storage.sources import located
from shards.workers import progress

ROUNDS = 6  # of the Feistel network; 4 are enough for a permutation that looks random
FLAC_BYTES_PER_SECOND = 0.6 * 2 * SAMPLE_RATE  # typical for speech
ESTIMATE_FROM = 1000  # recordings that the mean length is taken from
_KEY = re.compile(rb'"key"\s*:\s*"((?:[^"\\]|\\.)*)"')  # quotes inside a JSON string are escaped, so this is the field


def permute(index: np.ndarray, size: int, seed: int) -> np.ndarray:
    """Permute 0..size-1 by `seed`: return the images (int64) of `index`.

    A Feistel network over the next power of four, iterated until the value falls into the range (Black and Rogaway,
    "Ciphers with arbitrary finite domains", 2002): constant memory, the same on every machine and numpy version.
    """
    half = max(1, (max(size - 1, 1).bit_length() + 1) // 2)
    mask = np.uint64((1 << half) - 1)
    value = np.asarray(index, dtype=np.uint64)
    outside = np.ones(value.shape, dtype=bool)
    value = value.copy()
    while outside.any():
        left, right = value[outside] >> np.uint64(half), value[outside] & mask
        for number in range(ROUNDS):
            left, right = right, left ^ (_mix(right, seed * ROUNDS + number) & mask)
        value[outside] = (left << np.uint64(half)) | right
        outside = value >= size
    return value.astype(np.int64)


def _mix(value: np.ndarray, salt: int) -> np.ndarray:
    """Hash values by SplitMix64's finaliser."""
    with np.errstate(over="ignore"):
        x = value + np.uint64((salt * 0x9E3779B97F4A7C15 + 0x632BE59BD9B4E019) % (1 << 64))
        x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    mixed: np.ndarray = x ^ (x >> np.uint64(31))
    return mixed


@dataclass(frozen=True, slots=True)
class Parts:
    """Parts of equal size of the permuted recordings."""

    recordings: int
    count: int
    seed: int

    @classmethod
    def plan(cls, table: LineTable, seed: int, samples_per_shard: int, bytes_per_shard: float) -> Parts:
        """Plan as few parts as possible within the samples and, by estimate, bytes per shard."""
        per_part = min(samples_per_shard, max(1, int(bytes_per_shard / max(table.estimate_bytes(), 1.0))))
        return cls(len(table), max(1, -(-len(table) // per_part)), seed)

    def size(self, part: int) -> int:
        """Return the number of recordings of a part."""
        return self._begin(part + 1) - self._begin(part)

    def lines(self, part: int) -> np.ndarray:
        """Return the manifest lines (int64) of a part, in packing order."""
        return permute(np.arange(self._begin(part), self._begin(part + 1)), self.recordings, self.seed)

    def _begin(self, part: int) -> int:
        return self.recordings * part // self.count

    def share(self, number: int, of: int) -> range:
        """Return the parts of task `number` of `of` tasks."""
        return range(self.count * number // of, self.count * (number + 1) // of)


class LineTable:
    """Random access to the recordings of a manifest folder. Offsets are in a temporary file, 8 bytes per line.

    Args:
        scanned: offsets and sha256 of the manifest from an earlier scan.

    Raises:
        ManifestError: no such manifest, a line without a key, or a duplicate key.
    """

    def __init__(self, folder: str | Path, scanned: tuple[Spool, str] | None = None) -> None:
        self.folder = Path(folder)
        self.path = self.file(folder)
        self._offsets, self.sha256 = scanned or (Spool(np.int64), "")
        if scanned is None:
            self.sha256 = self._scan()

    @staticmethod
    def file(folder: str | Path) -> Path:
        """Return the file that is scanned."""
        return Path(folder) / RECORDINGS

    def __len__(self) -> int:
        return len(self._offsets)

    def offsets(self, lines: np.ndarray) -> list[int]:
        """Return the offsets of lines (0-based), for :func:`read_recordings`."""
        return [int(offset) for offset in self._offsets.at(lines)]

    def blocks(self) -> Iterator[np.ndarray]:
        """Yield the offsets of all lines (int64), some millions at a time."""
        return (block for _, block in self._offsets.chunks())

    def estimate_bytes(self) -> float:
        """Estimate the mean size of a sample from the lengths in the manifest."""
        lines = np.unique(np.linspace(0, len(self) - 1, min(ESTIMATE_FROM, len(self))).astype(np.int64))
        recordings = read_recordings(self.folder, self.offsets(lines))
        seconds = [r.duration or max((s.end for s in r.segments), default=0.0) for r in recordings]
        return FLAC_BYTES_PER_SECOND * sum(seconds) / max(len(seconds), 1)

    def _scan(self) -> str:
        digest, offset, hashes = hashlib.sha256(), 0, Spool(np.uint64)
        for line in self._lines():
            digest.update(line)
            if line.strip():
                self._offsets.append(offset)
                hashes.append(self._hash(line, offset))
            offset += len(line)
        if not len(self):
            raise ManifestError(f"{self.path}: empty manifest")
        self._refuse_duplicates(hashes)
        return digest.hexdigest()

    def _lines(self) -> Iterator[bytes]:
        try:
            with (
                self.path.open("rb", buffering=1 << 20) as file,
                progress(
                    total=self.path.stat().st_size, unit="B", unit_scale=True, desc="manifest", leave=False
                ) as bar,
            ):
                for number, line in enumerate(file):
                    yield line
                    if number % 65_536 == 65_535:
                        bar.update(file.tell() - bar.n)
        except OSError as error:
            raise ManifestError(f"{self.path}: {error.strerror}; name the folder of a manifest") from error

    def _hash(self, line: bytes, offset: int) -> int:
        found = _KEY.search(line)
        if not found:
            raise ManifestError(f"{self.path}: the line at byte {offset} has no key")
        return key_hash(found[1])

    def _refuse_duplicates(self, hashes: Spool) -> None:
        for lines in find_duplicates(hashes):
            seen: dict[bytes, int] = {}
            for line, offset in zip(lines, self.offsets(np.array(lines)), strict=True):
                key = self._key_at(offset)
                if key in seen:
                    raise ManifestError(
                        f"{self.path}: key {key.decode()} on records {seen[key] + 1} and {line + 1}; "
                        "keys must be unique in a dataset"
                    )
                seen[key] = line

    def _key_at(self, offset: int) -> bytes:
        with self.path.open("rb") as file:
            file.seek(offset)
            found = _KEY.search(file.readline())
        return found[1] if found else b""


def read_recordings(folder: str | Path, offsets: Iterable[int]) -> Iterator[Recording]:
    """Yield the recordings at these byte offsets of a manifest, in order, with an absolute `audio` path."""
    path, root = Path(folder) / RECORDINGS, Path(folder).absolute()
    with path.open("rb") as file:
        for offset in offsets:
            file.seek(offset)
            try:
                record = json.loads(file.readline())
                record["audio"] = located(root, record["audio"])
                recording = recording_from_json(record)
            except (ValueError, KeyError, TypeError) as error:
                raise ManifestError(f"{path}: line at byte {offset}: {type(error).__name__}: {error}") from error
            yield recording
