"""``speakerlm-shards overlap A B``: find data of the test set B that is also in the training set A.

=========  ==========================================================================================================
audio      the same samples, however encoded: FLAC keeps a hash (MD5) of the decoded audio in its header
session    the same session of the same corpus
speaker    the same speaker id, or another id of the same person by the speaker banks
=========  ==========================================================================================================

Only indexes are read, and 42 bytes (the FLAC header) of samples whose length occurs in the other dataset. B is kept in
memory.
"""

from __future__ import annotations

import argparse
import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from shards.arguments import natural
from shards.dataset.dataset import Dataset, open_dataset
from shards.errors import ShardError
from shards.sample import is_known
from shards.sound.audio import decode
from shards.sound.flac import STREAMINFO_BYTES, stream_info

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
    summary = {kind: {"samples_of_a": leak.samples, "of_b": len(leak.of_b)} for kind, leak in found.items()}
    print(json.dumps({"command": "overlap", "a": args.a, "b": args.b, "leaks": leaks} | summary, ensure_ascii=False))
    return 1 if leaks else 0


@dataclass
class Overlap:
    """Overlap of one kind."""

    samples: int = 0  # of A
    of_b: set[str] = field(default_factory=set)  # keys, sessions or speakers of B
    examples: list[str] = field(default_factory=list)


def overlap(a: Dataset, b: Dataset, *, examples: int = 5) -> dict[str, Overlap]:
    """Find the overlap of each kind."""
    test = _TestSet(b)
    people = test.same_people(a)
    found = {kind: Overlap() for kind in KINDS}

    def add(kind: str, of_b: str, line: str) -> None:
        leak = found[kind]
        leak.of_b.add(of_b)
        if len(leak.examples) < examples:
            leak.examples.append(line)

    for shard in range(len(a.shards)):
        rows = _rows(a, shard)
        alike = [r for r in rows if r["num_samples"] in test.lengths]
        for row, digest in zip(alike, _hashes(a, shard, alike), strict=True):
            if digest in test.audio:
                found["audio"].samples += 1
                key = test.audio[digest]
                add("audio", key, f"audio: {row['key']} of {a.name} is {key} of {b.name}")
        for row in rows:
            session = (row["corpus"], row["session"])
            if session in test.sessions:
                found["session"].samples += 1
                add("session", "/".join(session), f"session: {row['key']} of {a.name} is from {'/'.join(session)}")
            speakers = [s for s in row["speakers"] if s in people]
            found["speaker"].samples += bool(speakers)
            for speaker in speakers:
                add("speaker", people[speaker], f"speaker: {speaker} in {row['key']} is {people[speaker]} of {b.name}")
    return found


class _TestSet:
    """The test data in memory."""

    def __init__(self, dataset: Dataset) -> None:
        self.dataset = dataset
        self.audio: dict[bytes, str] = {}  # hash → key
        self.lengths: set[int] = set()
        self.sessions: set[tuple[str, str]] = set()
        self.speakers: set[str] = set()
        for shard in range(len(dataset.shards)):
            rows = _rows(dataset, shard)
            self.audio |= dict(zip(_hashes(dataset, shard, rows), (r["key"] for r in rows), strict=True))
            self.lengths |= {r["num_samples"] for r in rows}
            self.sessions |= {(r["corpus"], r["session"]) for r in rows}
            self.speakers |= {s for r in rows for s in r["speakers"] if is_known(s)}

    def same_people(self, other: Dataset) -> dict[str, str]:
        """Map speaker ids of the other dataset to ids here of the same person."""
        people = {s: s for s in self.speakers}
        if self.dataset.speakers is None or other.speakers is None:
            return people
        bank = self.dataset.speakers
        here = {p: s for p, s in zip(bank.persons, bank.ids, strict=True) if p is not None and s in self.speakers}
        there = zip(other.speakers.persons, other.speakers.ids, strict=True)
        return {s: here[p] for p, s in there if p in here} | people


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
