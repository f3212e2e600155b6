"""``speakerlm-shards overlap A B``: find data of the test set B that is also in the training set A.

=========  ==========================================================================================================
audio      the same samples, however encoded: FLAC keeps a hash (MD5) of the decoded audio in its header
session    the same session of the same corpus
speaker    the same speaker id, or another id of the same person by the speaker banks
=========  ==========================================================================================================

Samples of both datasets are counted: nine test samples with one audio are nine leaks. Only indexes are read, and 42
bytes (the FLAC header) of samples whose length occurs in the other dataset. B is kept in memory.
"""

from __future__ import annotations

import argparse
import hashlib
import json
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from shards.arguments import natural
from shards.dataset.dataset import Dataset, open_dataset
from shards.errors import ShardError
from shards.sample import is_known
from shards.sound.audio import decode
from shards.sound.flac import STREAMINFO_BYTES, stream_info
from shards.workers import progress

KINDS = ("audio", "session", "speaker")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's options."""
    parser.add_argument("a", help="training data: folder or s3://bucket/prefix")
    parser.add_argument("b", help="test data (kept in memory)")
    parser.add_argument("--allow", default="", metavar="KIND[,KIND]", help="intended kinds of overlap")
    parser.add_argument("--examples", type=natural, default=5, help="lines per kind")


def run(args: argparse.Namespace) -> int:
    """Print examples and one line of JSON; return 1 if there is an overlap that is not allowed."""
    found = overlap(open_dataset(args.a), open_dataset(args.b), examples=args.examples)
    allowed = set(args.allow.split(","))
    for leak in found.values():
        for line in leak.examples:
            print(line)
    leaks = [kind for kind in KINDS if found[kind].samples and kind not in allowed]
    summary = {kind: leak.counts() for kind, leak in found.items()}
    print(json.dumps({"command": "overlap", "a": args.a, "b": args.b, "leaks": leaks} | summary, ensure_ascii=False))
    return 1 if leaks else 0


@dataclass
class Overlap:
    """Overlap of one kind."""

    samples: int = 0  # of A
    samples_of_b: int = 0
    of_b: set[str] = field(default_factory=set)  # keys, sessions or speakers of B
    examples: list[str] = field(default_factory=list)

    def counts(self) -> dict[str, int]:
        """Return the numbers that the command prints."""
        return {"samples_of_a": self.samples, "samples_of_b": self.samples_of_b, "of_b": len(self.of_b)}


def overlap(a: Dataset, b: Dataset, *, examples: int = 5) -> dict[str, Overlap]:
    """Find the overlap of each kind."""
    test = _TestSet(b)
    people = test.same_people(a)
    found = {kind: Overlap() for kind in KINDS}

    def add(kind: str, of_b: Collection[str], line: str) -> None:
        leak = found[kind]
        leak.of_b.update(of_b)
        if len(leak.examples) < examples:
            leak.examples.append(line)

    for shard in progress(range(len(a.shards)), a.name, unit="shard"):
        rows = _rows(a, shard)
        alike = [r for r in rows if r["num_samples"] in test.lengths]
        for row, digest in zip(alike, _hashes(a, shard, alike), strict=True):
            if keys := test.audio.get(digest):
                found["audio"].samples += 1
                add("audio", keys, f"audio: {row['key']} of {a.name} is {_some(keys)} of {b.name}")
        for row in rows:
            session = (row["corpus"], row["session"])
            if session in test.sessions:
                found["session"].samples += 1
                add("session", ["/".join(session)], f"session: {row['key']} of {a.name} is from {'/'.join(session)}")
            speakers = [s for s in row["speakers"] if s in people]
            found["speaker"].samples += bool(speakers)
            for s in speakers:
                add("speaker", people[s], f"speaker: {s} in {row['key']} is {_some(people[s])} of {b.name}")
    found["audio"].samples_of_b = len(found["audio"].of_b)  # keys
    found["session"].samples_of_b = sum(n for s, n in test.sessions.items() if "/".join(s) in found["session"].of_b)
    found["speaker"].samples_of_b = sum(n for s, n in test.casts.items() if s & found["speaker"].of_b)
    return found


def _some(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{names[0]} (and {len(names) - 1} more)"


class _TestSet:
    """The test data in memory."""

    def __init__(self, dataset: Dataset) -> None:
        self.dataset = dataset
        self.audio: dict[bytes, list[str]] = {}  # hash → keys
        self.lengths: set[int] = set()
        self.sessions: Counter[tuple[str, str]] = Counter()  # (corpus, session) → samples
        self.casts: Counter[frozenset[str]] = Counter()  # known speakers of a sample → samples
        for shard in progress(range(len(dataset.shards)), dataset.name, unit="shard"):
            rows = _rows(dataset, shard)
            for row, digest in zip(rows, _hashes(dataset, shard, rows), strict=True):
                self.audio.setdefault(digest, []).append(row["key"])
            self.lengths |= {r["num_samples"] for r in rows}
            self.sessions.update((r["corpus"], r["session"]) for r in rows)
            self.casts.update(frozenset(filter(is_known, r["speakers"])) for r in rows)

    def same_people(self, other: Dataset) -> dict[str, list[str]]:
        """Map speaker ids of the other dataset to all ids here of the same person."""
        people = {s: [s] for s in sorted(frozenset().union(*self.casts))}
        if self.dataset.speakers is None or other.speakers is None:
            return people
        here: dict[str, list[str]] = {}
        for person, speaker in zip(self.dataset.speakers.persons, self.dataset.speakers.ids, strict=True):
            if person is not None and speaker in people:
                here.setdefault(person, []).append(speaker)
        there = zip(other.speakers.persons, other.speakers.ids, strict=True)
        for person, speaker in there:
            if person in here:
                people[speaker] = [*dict.fromkeys([*people.get(speaker, ()), *here[person]])]
        return people


def _rows(dataset: Dataset, shard: int) -> list[dict[str, Any]]:
    columns = ["key", "corpus", "session", "num_samples", "speakers", "flac_offset", "flac_length"]
    rows: list[dict[str, Any]] = dataset.index(shard).select(columns).to_pylist()
    return rows


def _hashes(dataset: Dataset, shard: int, rows: Sequence[dict[str, Any]]) -> Iterator[bytes]:
    """Yield the MD5 of the decoded audio of each row: from the FLAC header, or by decoding if it is missing there."""
    tar = dataset.shards[shard].tar
    heads = dataset.storage.read_ranges(tar, [(r["flac_offset"], STREAMINFO_BYTES) for r in rows])
    for row, head in zip(rows, heads, strict=True):
        info = stream_info(head)
        if info is None:
            raise ShardError(f"{dataset.url}/{tar}: {row['key']} at {row['flac_offset']} is not FLAC; run verify")
        digest = info.md5
        if not any(digest):
            data = dataset.storage.read_range(tar, row["flac_offset"], row["flac_length"])
            digest = hashlib.md5(np.rint(decode(data) * 32768).astype("<i2").tobytes()).digest()
        yield digest
