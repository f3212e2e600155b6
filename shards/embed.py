"""``speakerlm-shards embed``: speaker vectors of another extractor beside packed shards; no tar is touched.

The clips that a sample's vectors are made from are those that packing drew: the same manifests and seed. A shard's
vectors are one file, whole or not there, so the same command goes on where it was interrupted. Each device has a
process of its own, and that a pool of processes which read audio and compute its features.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from shards.enrolment import Enroller
from shards.errors import ConfigError, ShardError
from shards.extractors import load_extractor
from shards.features import feature_readers
from shards.index import Dataset, ShardInfo, open_dataset
from shards.manifests import RECORDINGS
from shards.pack import file_sha256
from shards.parts import LineTable, Parts, read_recordings
from shards.speakers import build_bank
from shards.vectors import about, bank_paths, sidecar_path, to_bytes
from shards.workers import spread


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the command."""
    add = parser.add_argument
    add("dataset", help="folder or s3://bucket/prefix")
    add("--manifest", type=Path, required=True, help="the one that was packed")
    add("--enrol", metavar="DIR[,DIR]", help="as it was for pack (default: the manifest)")
    add("--extractor", required=True, help="name of a speaker embedding extractor")
    add("--devices", default="cpu", metavar="DEVICE[,DEVICE]", help="cpu, or cuda:0,cuda:1 …; a process each")
    add("--readers", type=int, default=0, help="processes that read audio, for each device (0: the device's own)")


def run(args: argparse.Namespace) -> int:
    """Make what is missing, print one line of JSON."""
    from tqdm import tqdm

    dataset = open_dataset(args.dataset)
    job, table, parts = plan(args, dataset)
    missing = [s for s, info in enumerate(dataset.shards) if not job.done(dataset, info)]
    work = ((s, table.offsets(parts.lines(int(dataset.shards[s].name.rpartition("-")[2])))) for s in missing)
    with tqdm(total=len(missing), unit="shard", disable=None) as bar:
        for _ in spread(partial(Worker, job), args.devices.split(","), work):
            bar.update()
    bank = bank_paths(args.extractor)
    if missing or not dataset.storage.exists(bank[0]):
        with Worker(job, args.devices.split(",")[0]) as worker:
            worker.make_bank(bank)
    told = {"command": "embed", "dataset": dataset.url, "extractor": args.extractor, "shards": len(dataset.shards)}
    print(json.dumps(told | {"skipped": len(dataset.shards) - len(missing)}))
    return 0


@dataclass(frozen=True)
class Job:
    """What every process knows."""

    url: str
    manifest: Path
    enrol: tuple[str, ...]
    seed: int
    extractor: str
    about: dict[str, Any]  # goes into every sidecar, with the shard's sha256
    readers: int

    def describe(self, shard: ShardInfo) -> dict[str, Any]:
        """Metadata of a shard's sidecar."""
        return self.about | {"shard_sha256": shard.sha256}

    def done(self, dataset: Dataset, shard: ShardInfo) -> bool:
        """Whether the sidecar is there and made from the same."""
        path = sidecar_path(shard.name, self.extractor)
        if not dataset.storage.exists(path):
            return False
        try:
            return about(dataset.storage.read(path), path) == self.describe(shard)
        except ShardError:
            return False  # damaged: work to be done again


def plan(args: argparse.Namespace, dataset: Dataset) -> tuple[Job, LineTable, Parts]:
    """Check that manifest and enrolment are those of the dataset.

    Raises:
        ConfigError: they are not, or the dataset was packed without speakers.
    """
    config = dataset.info["provenance"].get("config", {})
    enrol = tuple(args.enrol.split(",")) if args.enrol else (str(args.manifest),)
    table = LineTable(args.manifest)
    if not config.get("extractor"):
        raise ConfigError(f"{dataset.url} was packed without speakers; there are no vectors to replace")
    if config["manifest_sha256"] != table.sha256:
        raise ConfigError(f"{args.manifest} is not the manifest that {dataset.url} was packed from; name that one")
    if config["enrol_sha256"] != [file_sha256(Path(e) / RECORDINGS) for e in enrol]:
        raise ConfigError(
            f"--enrol {','.join(enrol)} is not what {dataset.url} was packed with; name the same manifests"
        )
    extractor = load_extractor(args.extractor)
    made = {"extractor": extractor.id, "extractor_sha256": extractor.sha256, "dim": extractor.dim}
    made |= {"enrol_sha256": config["enrol_sha256"], "seed": config["seed"]}
    job = Job(dataset.url, args.manifest, enrol, config["seed"], args.extractor, made, args.readers)
    return job, table, Parts(len(table), config["parts"], config["seed"])


class Worker:
    """One device: makes one shard's vectors after the other. Use as a context manager."""

    def __init__(self, job: Job, device: str) -> None:
        self.job, self._stack = job, ExitStack()
        self.dataset = open_dataset(job.url)
        self.enroller = Enroller(job.enrol, load_extractor(job.extractor, device=device), job.seed)
        self._features = self._stack.enter_context(feature_readers(job.readers))

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, *error: object) -> None:
        self._stack.close()

    def __call__(self, shard: int, offsets: Sequence[int]) -> int:
        """Write the vectors of a shard; its number.

        Raises:
            ShardError: the manifest gives other samples than the shard holds.
            SpeakerError, AudioError: enrolment speech that this extractor cannot use.
        """
        info = self.dataset.shards[shard]
        keys = self.dataset.index(shard)["key"].to_pylist()
        packed = set(keys)
        recordings = [r for r in read_recordings(self.job.manifest, offsets) if r.key in packed]
        if [r.key for r in recordings] != keys:
            raise ShardError(f"{self.dataset.url}/{info.index}: its samples are not those of this part of the manifest")
        self.enroller.prepare(recordings, self._features)
        vectors = [self.enroller.embed(r) for r in recordings]
        data = to_bytes(keys, vectors, self.job.describe(info))
        self.dataset.storage.write_atomic(sidecar_path(info.name, self.job.extractor), data)
        return shard

    def make_bank(self, paths: tuple[str, str]) -> None:
        """Write the speaker bank."""
        build_bank(self.enroller, self.dataset.storage, *paths, batched=True, features=self._features)
