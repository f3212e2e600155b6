"""Ways in which a shard is damaged on its way from the packer to the trainer."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

from shards.dataset.dataset import Dataset, open_dataset
from shards.dataset.reader import read_sample
from shards.dataset.writer import write_dataset_json, write_shard
from shards.sample import Sample

BLOCK = 512


class Damage:
    """Edits the tar of one shard of a local dataset. `row` is where it hurts; rows before it stay whole."""

    def __init__(self, dataset: Dataset, shard: int, row: int) -> None:
        self.dataset, self.shard, self.row = dataset, shard, row
        path = dataset.storage.local_path(dataset.shards[shard].tar)
        assert path is not None
        self.tar: Path = path
        entry = dataset.index(shard).slice(row, 1).to_pylist()[0]
        self.key, self.flac, self.json = entry["key"], entry["flac_offset"], entry["json_offset"]

    def cut_at_member_boundary(self) -> None:
        """The tar ends where the sample's first header would begin: tarfile sees a shorter, valid tar."""
        self._cut(self.flac - BLOCK)

    def cut_between_members_of_a_sample(self) -> None:
        """The tar ends behind the sample's audio."""
        self._cut(self.json - BLOCK)

    def cut_in_header(self) -> None:
        self._cut(self.flac - BLOCK // 2)

    def cut_in_payload(self) -> None:
        self._cut(self.flac + 100)

    def flip_header_byte(self) -> None:
        """One bit of the member's checksum field: tarfile takes the archive for ended here."""
        self._flip(self.flac - BLOCK + 150)

    def flip_payload_byte(self) -> None:
        self._flip(self.flac + 100)

    def flip_json_byte(self) -> None:
        self._flip(self.json + 20)

    def swap_with(self, other: int) -> None:
        """The tars of two shards change places."""
        path = self.dataset.storage.local_path(self.dataset.shards[other].tar)
        assert path is not None
        mine, theirs = self.tar.read_bytes(), path.read_bytes()
        self.tar.write_bytes(theirs)
        path.write_bytes(mine)

    def _cut(self, size: int) -> None:
        self.tar.write_bytes(self.tar.read_bytes()[:size])

    def _flip(self, offset: int) -> None:
        data = bytearray(self.tar.read_bytes())
        data[offset] ^= 1
        self.tar.write_bytes(bytes(data))


def packed_with(dataset: Dataset, key: str, **changes: Any) -> Dataset:
    """The dataset, packed again by a packer that did not notice what is wrong with a sample: its crc32 is right."""
    infos = list(dataset.shards)
    for shard, info in enumerate(infos):
        rows = [read_sample(dataset, shard, row) for row in range(info.samples)]
        if key in (s.key for s in rows):
            made = [replace(s, **changes) if s.key == key else s for s in rows]
            with patch.object(Sample, "validate", lambda _: None):
                infos[shard] = write_shard(dataset.storage, info.name, made)
            assert asdict(infos[shard]) != asdict(info)
    write_dataset_json(dataset.storage, dataset.name, infos, dataset.info["provenance"])
    return open_dataset(dataset.url)
