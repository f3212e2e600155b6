"""``speakerlm-shards pack``: a manifest → a dataset, exactly once even if processes are killed.

The unit of work is a part (= a shard, see :mod:`shards.packing.partition`). A part is finished when its index is
written; finished parts are skipped, so the same command resumes an interrupted run, with the same bytes for any number
of workers or tasks. The task that finds all parts finished merges them: quarantine list, speaker bank,
``dataset.json``.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import shutil
import tempfile
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from shards.arguments import natural, positive, share_of_one
from shards.dataset.dataset import DATASET, Dataset, dataset_json, open_dataset
from shards.dataset.index import ShardInfo, tar_path
from shards.dataset.sidecar import skipped_clips_path
from shards.dataset.speaker_bank import bank_fault
from shards.errors import ConfigError, DataError, ShardError, StorageError
from shards.manifests.manifest import SPEAKERS, read_genders
from shards.packing.packer import (
    CORE,
    Packer,
    PartResult,
    PartWorker,
    difference,
    genders_sha256,
    other_inputs,
    stop_above,
)
from shards.packing.partition import LineTable, Parts
from shards.packing.provenance import BANK_KEY, config, config_of, file_sha256, provenance
from shards.packing.scan import remove_table, shared_table, stored_table
from shards.packing.self_enrolment import exceeds_early, self_enrolled_error
from shards.storage.interface import open_storage
from shards.voices.extractors import load_extractor
from shards.voices.persons import hash_of, other_ids
from shards.workers import progress, run_jobs

logger = logging.getLogger(__name__)

QUARANTINE = "quarantine.jsonl"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's options."""
    add = parser.add_argument
    add("manifest", type=Path, help="folder with recordings.jsonl and speakers.jsonl")
    add("out", help="folder or s3://bucket/prefix of the dataset")
    add("--name", help="name of the dataset and its shards (default: the manifest folder's)")
    add("--seed", type=natural, default=1, help="seed of the permutation and the enrolment clips (default 1)")
    add(
        "--samples-per-shard",
        type=positive,
        default=10_000,
        help="largest number of samples; fewer if --bytes-per-shard is reached",
    )
    add(
        "--bytes-per-shard",
        type=float,
        default=1e9,
        help="approximate limit, estimated from the lengths in the manifest",
    )
    add("--workers", type=positive, default=1, help="processes; they do not change the output")
    add("--part", metavar="I/N", help="pack share I of N, from 0 (default: that of the Slurm array task, or all)")
    add("--enrol", metavar="DIR[,DIR]", help="manifests with enrolment speech (default: this one)")
    add("--extractor", default="campplus", help="speaker embedding extractor: NAME or NAME@SOURCE")
    add(
        "--devices",
        metavar="DEVICE[,DEVICE]",
        help="cuda:0,cuda:1 …: one process per device, and --workers further processes each that read audio",
    )
    add(
        "--max-self-enrolled",
        type=share_of_one,
        default=0.05,
        help="share of speaker vectors made from the sample's own speech, for want of other, above which the run stops",
    )
    add("--no-speakers", action="store_true", help="no speaker vectors and no speaker bank, for plain ASR")
    add(
        "--audio-check",
        choices=("crc", "decode"),
        default="crc",
        help="check of copied FLAC: the CRC of its frames, or decode it too",
    )
    add("--max-bad-share", type=float, default=0.01, help="share of unusable recordings above which the run stops")
    add("--dry-run", action="store_true", help="print the plan and write nothing")


def run(args: argparse.Namespace) -> int:
    """Pack the missing parts, merge if all are finished, and print one line of JSON."""
    number, of = _task(args.part)
    packer, table, parts = plan(args, tasks=of)
    mine = parts.share(number, of)
    if args.dry_run:
        print(json.dumps({"dry_run": True} | _outline(table, parts, mine)))
        return 0
    _refuse_other_dataset(packer)
    places = args.devices.split(",") if args.devices else [CORE] * min(args.workers, max(1, len(mine)))
    readers = args.workers if args.devices else 0
    done = pack_parts(packer, table, parts, mine, places, readers=readers, max_bad_share=args.max_bad_share)
    merged = merge(replace(packer, device=places[0]) if args.devices else packer, parts, args.max_bad_share)
    if merged:
        remove_table(packer.storage, packer.name)
    print(
        json.dumps(
            {
                "command": "pack",
                "dataset": packer.out,
                "shards": len(mine),
                "skipped": done.skipped,
                "samples": done.samples,
                "hours": round(done.seconds / 3600, 4),
                "quarantined": done.quarantined,
                "self_enrolled": done.self_enrolled,
                "skipped_clips": len(done.skipped_clips),
                "merged": merged,
            }
        )
    )
    return 0


def plan(args: argparse.Namespace, tasks: int = 1) -> tuple[Packer, LineTable, Parts]:
    """Scan the manifest, once for all tasks, and plan its parts."""
    if args.bytes_per_shard <= 0:
        raise ConfigError("--bytes-per-shard must be positive")
    name = args.name or args.manifest.resolve().name
    if not name or set(name) & set("/\\. "):
        raise ConfigError(f"--name {name!r}: a name must not contain a dot, slash or space")
    table = _table(args.manifest, args.out, name, alone=tasks == 1, dry=args.dry_run)
    parts = Parts.plan(table, args.seed, args.samples_per_shard, args.bytes_per_shard)
    enrol = tuple(args.enrol.split(",")) if args.enrol else (str(args.manifest),)
    extractor = None if args.no_speakers else args.extractor
    packer = Packer(
        manifest=args.manifest,
        out=args.out,
        name=name,
        seed=args.seed,
        manifest_sha256=table.sha256,
        parts=parts.count,
        extractor=extractor,
        extractor_sha256=load_extractor(extractor).sha256 if extractor else None,
        enrol=() if args.no_speakers else enrol,
        enrol_sha256=() if args.no_speakers else tuple(_sha256(e, table) for e in enrol),
        speakers_sha256=() if args.no_speakers else tuple(file_sha256(Path(e) / SPEAKERS) for e in enrol),
        persons_sha256=None if args.no_speakers else hash_of(other_ids(args.manifest, enrol)),
        genders_sha256=genders_sha256(read_genders(args.manifest)),
        max_self_enrolled=args.max_self_enrolled,
        decode_copied=args.audio_check == "decode",
    )
    return packer, table, parts


def _table(manifest: Path, out: str, name: str, *, alone: bool, dry: bool) -> LineTable:
    """Return the manifest's lines, which one task scans for all; a dry run writes nothing."""
    if alone:
        return LineTable(manifest)
    storage = open_storage(out)
    return (
        stored_table(manifest, storage, name) or LineTable(manifest) if dry else shared_table(manifest, storage, name)
    )


def _sha256(enrol: str, table: LineTable) -> str:
    path = LineTable.file(enrol)
    return table.sha256 if path.absolute() == table.path.absolute() else file_sha256(path)


@dataclass
class Totals:
    """Sums over the parts of this run, including those finished before."""

    skipped: int = 0
    samples: int = 0
    seconds: float = 0.0
    quarantined: int = 0
    vectors: int = 0
    self_enrolled: int = 0
    unenrolled: int = 0
    skipped_clips: set[tuple[str, str]] = field(default_factory=set)  # file and reason

    def add(self, result: PartResult) -> None:
        """Add one part."""
        self.skipped += result.skipped
        self.samples += result.record.info.samples
        self.seconds += result.record.info.seconds
        self.quarantined += len(result.record.quarantine)
        self.vectors += result.vectors
        self.self_enrolled += result.record.self_enrolled
        self.unenrolled += result.record.unenrolled
        self.skipped_clips |= {(c["file"], c["reason"]) for c in result.record.skipped_clips}


def pack_parts(
    packer: Packer,
    table: LineTable,
    parts: Parts,
    mine: range,
    places: Sequence[str] = (CORE,),
    *,
    readers: int = 0,
    max_bad_share: float = 0.01,
) -> Totals:
    """Pack parts with one process per place, each with `readers` further processes that read audio.

    Raises:
        DataError: more than `max_bad_share` of the recordings are unusable, or not enrolled because all clips of a
            speaker are; or too many vectors are of own speech. Finished parts are kept.
    """
    total = sum(parts.size(p) for p in mine)
    max_bad = int(max_bad_share * total)
    jobs = ((part, table.offsets(parts.lines(part)), max_bad) for part in mine)
    done = Totals()
    with (
        progress(total=total, unit="rec", desc=packer.name) as bar,
        closing(run_jobs(partial(PartWorker, packer, readers), places, jobs)) as results,
    ):
        for result in results:
            done.add(result)
            record = result.record
            stop_above(max_bad, done.quarantined + done.unenrolled, record.quarantine + record.skipped_clips)
            share, own = packer.max_self_enrolled, done.self_enrolled
            if exceeds_early(own, done.vectors, share):
                speakers = packer.speakers([result.part])
                raise self_enrolled_error(own, done.vectors, share, packer.enroller, speakers)
            bar.set_postfix_str(f"{done.seconds / 3600:.1f} h, {done.quarantined} bad", refresh=False)
            bar.update(record.info.samples + len(record.quarantine))
    return done


def merge(packer: Packer, parts: Parts, max_bad_share: float = 0.01) -> bool:
    """Write the lists of skipped data, the speaker bank and, last, ``dataset.json``, if all parts are finished.

    Returns False if parts are missing. Two calls, also by two tasks at once, write the same bytes.

    Args:
        max_bad_share: share of the speakers that the bank may lack because all their clips are unusable.

    Raises:
        DataError: too many speaker vectors are of the sample's own speech.
    """
    storage = packer.storage
    before = storage.version(DATASET)
    _refuse_other_dataset(packer)
    shards: list[ShardInfo] = []
    self_enrolled = vectors = 0
    clips: dict[bytes, None] = {}  # lines of the list; a clip may be listed by many parts
    with tempfile.TemporaryFile() as bad:  # may be millions
        for part in range(parts.count):
            done = packer.finished(part)
            if done is None:
                return False
            record, vectors = done.record, vectors + done.vectors
            shards += [record.info] if record.info.samples else []
            self_enrolled += record.self_enrolled
            clips |= dict.fromkeys(json_line(c) for c in record.skipped_clips)
            bad.writelines(json_line(b) for b in record.quarantine)
        if not shards:
            raise DataError(f"{packer.manifest}: no recording could be packed; the shards' indexes hold the reasons")
        if _merged(packer, shards) and _bank_fault(packer) is None:
            return True
        bad.seek(0)
        with storage.create(QUARANTINE, wait=True) as out:
            shutil.copyfileobj(bad, out)
    if self_enrolled > packer.max_self_enrolled * vectors:
        speakers = packer.speakers(range(parts.count))
        raise self_enrolled_error(self_enrolled, vectors, packer.max_self_enrolled, packer.enroller, speakers)
    if packer.enroller is not None:
        from shards.packing.make_bank import build_bank

        skipped = build_bank(packer.enroller, storage, batched=packer.device is not None, max_bad_share=max_bad_share)
        clips |= dict.fromkeys(json_line(c) for c in skipped)
        with storage.create(skipped_clips_path(None), wait=True) as out:
            out.write(b"".join(clips))
    storage.clean(tar_path(f"{packer.name}-").removesuffix(".tar"))
    source = provenance(packer) | {"self_enrolled": self_enrolled}
    storage.commit(DATASET, dataset_json(packer.name, shards, source), before)
    return True


def _bank_fault(packer: Packer) -> str | None:
    """Return what is wrong with the speaker bank of a merged dataset; None if it is whole."""
    fault = None if packer.extractor is None else bank_fault(packer.storage)
    if fault is not None:
        logger.warning("%s: it is written again now", fault)
    return fault


def json_line(entry: dict[str, str]) -> bytes:
    """Serialise one entry of a list of skipped data."""
    return json.dumps(entry, ensure_ascii=False).encode() + b"\n"


def _merged(packer: Packer, shards: list[ShardInfo]) -> bool:
    """Return whether ``dataset.json`` describes these shards."""
    dataset = _dataset(packer)
    return dataset is not None and dataset.shards == tuple(shards) and config_of(dataset) == config(packer)


def _refuse_other_dataset(packer: Packer) -> None:
    """Raise :class:`ConfigError` if the output holds a dataset made from other inputs.

    The speakers' metadata may differ, but not their genders: then the bank is written again, and the shards stay.
    """
    dataset = _dataset(packer)
    if dataset is not None:
        before, now = (one | {BANK_KEY: None} for one in (config_of(dataset), config(packer)))
        if before != now:
            raise other_inputs(f"{packer.out} holds the dataset {dataset.name}, packed", difference(before, now))


def _dataset(packer: Packer) -> Dataset | None:
    """Return the dataset at the output, if it is finished."""
    try:
        return open_dataset(packer.out)
    except (ShardError, StorageError):
        return None


def _task(part: str | None) -> tuple[int, int]:
    """Return this task's number and the number of tasks, from --part or a Slurm array."""
    env = os.environ
    if part is None and "SLURM_ARRAY_TASK_ID" in env:
        first, last, count = (int(env[f"SLURM_ARRAY_TASK_{k}"]) for k in ("MIN", "MAX", "COUNT"))
        if last - first + 1 != count:
            raise ConfigError("this Slurm array has gaps or a step; use --part I/N instead")
        return int(env["SLURM_ARRAY_TASK_ID"]) - first, count
    try:
        number, of = (int(x) for x in (part or "0/1").split("/"))
    except ValueError as error:
        raise ConfigError(f"--part {part!r}: write I/N, such as 0/8") from error
    if not 0 <= number < of:
        raise ConfigError(f"--part {part}: I counts from 0 to N-1")
    return number, of


def _outline(table: LineTable, parts: Parts, mine: range) -> dict[str, Any]:
    return {
        "recordings": len(table),
        "shards": parts.count,
        "this_task": [mine.start, mine.stop],
        "samples_per_shard": -(-len(table) // parts.count),
        "estimated_bytes_per_shard": int(table.estimate_bytes() * len(table) / parts.count),
    }
