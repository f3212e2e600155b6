"""``speakerlm-shards embed``: speaker vectors of another extractor for packed shards; the tars stay unchanged.

A sample's vectors are made from the same clips as in packing: the same manifests and seed. The vectors of a shard are
one file, written atomically, so the same command resumes an interrupted run. Each device has one process, with a pool
of processes that read audio and compute features.
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

from shards.arguments import natural
from shards.dataset.dataset import Dataset, open_dataset
from shards.dataset.index import ShardInfo
from shards.dataset.sidecar import bank_paths, read_metadata, sidecar_path, skipped_clips_path, to_bytes
from shards.dataset.speaker_bank import bank_fault, read_bank_inputs
from shards.errors import ConfigError, ShardError
from shards.manifests.manifest import RECORDINGS, SPEAKERS
from shards.packing.make_bank import build_bank
from shards.packing.pack import json_line
from shards.packing.packer import stop_above
from shards.packing.partition import LineTable, Parts, read_recordings
from shards.packing.provenance import file_sha256
from shards.voices.enrolment import Enroller
from shards.voices.extractors import load_extractor
from shards.voices.feature_pool import feature_readers
from shards.voices.persons import hash_of, other_ids
from shards.workers import progress, run_jobs

SKIPPED = "skipped_clips"  # key in a sidecar's metadata


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's options."""
    add = parser.add_argument
    add("dataset", help="folder or s3://bucket/prefix")
    add("--manifest", type=Path, required=True, help="manifest folder that was packed")
    add("--enrol", metavar="DIR[,DIR]", help="the value given to pack (default: the manifest)")
    add("--extractor", required=True, help="speaker embedding extractor: NAME or NAME@SOURCE")
    add(
        "--devices",
        default="cpu",
        metavar="DEVICE[,DEVICE]",
        help="cpu,cpu … (one core each) or cuda:0,cuda:1 …; one process per device",
    )
    add(
        "--readers",
        type=natural,
        default=0,
        help="processes per device that read audio (0: the device's own process reads it)",
    )
    add(
        "--max-bad-share",
        type=float,
        default=0.01,
        help="share of samples or speakers without usable enrolment clips above which the run stops",
    )


def run(args: argparse.Namespace) -> int:
    """Embed the missing shards and print one line of JSON."""
    dataset = open_dataset(args.dataset)
    job, table, parts = plan(args, dataset)
    finished = [job.skipped_clips(dataset, info) for info in dataset.shards]
    missing = [s for s, skipped in enumerate(finished) if skipped is None]
    clips = dict.fromkeys(json_line(c) for skipped in finished for c in skipped or ())
    work = ((s, table.offsets(parts.lines(int(dataset.shards[s].name.rpartition("-")[2])))) for s in missing)
    with progress(total=len(missing), unit="shard") as bar:
        for skipped in run_jobs(partial(EmbedWorker, job), args.devices.split(","), work):
            clips |= dict.fromkeys(map(json_line, skipped))
            bar.update()
    bank = bank_paths(args.extractor)
    same = not missing and read_bank_inputs(dataset.storage, bank[0]) == job.bank_inputs
    if not same or bank_fault(dataset.storage, *bank) is not None:
        with EmbedWorker(job, args.devices.split(",")[0]) as worker:
            clips |= dict.fromkeys(map(json_line, worker.make_bank(bank)))
        dataset.storage.write_atomic(skipped_clips_path(args.extractor), b"".join(clips))
    summary = {"command": "embed", "dataset": dataset.url, "extractor": args.extractor, "shards": len(dataset.shards)}
    print(json.dumps(summary | {"skipped": len(dataset.shards) - len(missing), "skipped_clips": len(clips)}))
    return 0


@dataclass(frozen=True)
class EmbedJob:
    """Configuration of every process."""

    url: str
    manifest: Path
    enrol: tuple[str, ...]
    seed: int
    extractor: str
    inputs: dict[str, Any]  # stored in every sidecar, with the shard's sha256
    bank_inputs: dict[str, Any]  # stored in the bank
    readers: int
    max_bad_share: float

    def describe(self, shard: ShardInfo) -> dict[str, Any]:
        """Return the metadata of a shard's sidecar."""
        return self.inputs | {"shard_sha256": shard.sha256}

    def skipped_clips(self, dataset: Dataset, shard: ShardInfo) -> list[dict[str, str]] | None:
        """Return the clips that a shard's sidecar skipped; None if it is missing, or made from other inputs."""
        path = sidecar_path(shard.name, self.extractor)
        if not dataset.storage.exists(path):
            return None
        try:
            found = read_metadata(dataset.storage.read(path), path)
        except ShardError:
            return None  # damaged: made again
        skipped: list[dict[str, str]] = found.pop(SKIPPED, [])
        return skipped if found == self.describe(shard) else None


def plan(args: argparse.Namespace, dataset: Dataset) -> tuple[EmbedJob, LineTable, Parts]:
    """Check that manifest and enrolment are those of the dataset, and plan the work.

    Raises:
        ConfigError: another manifest or enrolment, or a dataset without speakers.
    """
    config = dataset.info["provenance"].get("config", {})
    enrol = tuple(args.enrol.split(",")) if args.enrol else (str(args.manifest),)
    table = LineTable(args.manifest)
    if not config.get("extractor"):
        raise ConfigError(f"{dataset.url} was packed without speakers: it has no vectors to replace")
    if config["manifest_sha256"] != table.sha256:
        raise ConfigError(f"{args.manifest} is not the manifest that {dataset.url} was packed from")
    if config["enrol_sha256"] != [file_sha256(Path(e) / RECORDINGS) for e in enrol]:
        raise ConfigError(f"--enrol {','.join(enrol)} differs from the enrolment that {dataset.url} was packed with")
    persons = hash_of(other_ids(args.manifest, enrol))
    if config.get("persons_sha256") != persons:
        raise ConfigError(
            f"{args.manifest}/{SPEAKERS} or that of --enrol names other persons than {dataset.url} was packed with"
        )
    extractor = load_extractor(args.extractor)
    made = {"extractor": extractor.id, "extractor_sha256": extractor.sha256, "dim": extractor.dim}
    made |= {"enrol_sha256": config["enrol_sha256"], "seed": config["seed"]}
    if persons:
        made["persons_sha256"] = persons
    bank_inputs = made | {"speakers_sha256": [file_sha256(Path(e) / SPEAKERS) for e in enrol]}
    job = EmbedJob(
        url=dataset.url,
        manifest=args.manifest,
        enrol=enrol,
        seed=config["seed"],
        extractor=args.extractor,
        inputs=made,
        bank_inputs=bank_inputs,
        readers=args.readers,
        max_bad_share=args.max_bad_share,
    )
    return job, table, Parts(len(table), config["parts"], config["seed"])


class EmbedWorker:
    """Embeds shards on one device. Use as a context manager."""

    def __init__(self, job: EmbedJob, device: str) -> None:
        import torch

        if device == "cpu":
            torch.set_num_threads(1)  # as in pack: sums in one order, and devices "cpu,cpu" share the cores
        self.job, self._stack = job, ExitStack()
        self.dataset = open_dataset(job.url)
        extractor = load_extractor(job.extractor, device=device)
        self.enroller = Enroller(job.enrol, extractor, job.seed, other_ids(job.manifest, job.enrol))
        self._features = self._stack.enter_context(feature_readers(job.readers))

    def __enter__(self) -> EmbedWorker:
        return self

    def __exit__(self, *error: object) -> None:
        self._stack.close()

    def __call__(self, shard: int, offsets: Sequence[int]) -> list[dict[str, str]]:
        """Write the vectors of a shard; return the skipped enrolment clips.

        Raises:
            ShardError: the shard holds other samples than the manifest.
            SpeakerError, AudioError: a speaker has only the sample's own speech, which this extractor cannot use.
            DataError: too many samples without a usable enrolment clip.
        """
        info = self.dataset.shards[shard]
        keys = self.dataset.index(shard)["key"].to_pylist()
        packed = set(keys)
        recordings = [r for r in read_recordings(self.job.manifest, offsets) if r.key in packed]
        if [r.key for r in recordings] != keys:
            raise ShardError(f"{self.dataset.url}/{info.index}: its samples differ from this part of the manifest")
        self.enroller.take_skipped()  # what is listed from here on belongs to this shard
        before = self.enroller.unenrolled
        self.enroller.prepare(recordings, self._features)
        vectors = [self.enroller.embed(r) for r in recordings]
        skipped = self.enroller.take_skipped()
        stop_above(int(self.job.max_bad_share * self.dataset.samples), self.enroller.unenrolled - before, skipped)
        data = to_bytes(keys, vectors, self.job.describe(info) | {SKIPPED: skipped})
        self.dataset.storage.write_atomic(sidecar_path(info.name, self.job.extractor), data)
        return skipped

    def make_bank(self, paths: tuple[str, str]) -> list[dict[str, str]]:
        """Write the speaker bank; return the skipped clips and speakers."""
        return build_bank(
            self.enroller,
            self.dataset.storage,
            *paths,
            batched=True,
            features=self._features,
            max_bad_share=self.job.max_bad_share,
            inputs=self.job.bank_inputs,
        )
