"""Pack one part of a manifest into one shard."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow.compute as pc

from shards.dataset.index import ShardRecord, index_from_bytes, index_path, tar_path
from shards.dataset.writer import ShardWriter
from shards.errors import AudioError, ConfigError, DataError, ManifestError, ShardError, SpeakerError
from shards.manifests.manifest import Recording, read_genders
from shards.packing.partition import read_recordings
from shards.packing.self_enrolment import exceeds_early, self_enrolled_error
from shards.sample import FORMAT_VERSION, Sample
from shards.storage.interface import Storage, open_storage

if TYPE_CHECKING:
    from shards.voices.enrolment import Enroller, Features

CORE = "core"  # a place without an accelerator
WHAT = {  # in provenance.config of a dataset
    "seed": "the seed",
    "manifest_sha256": "the manifest",
    "parts": "the number of shards (--samples-per-shard, --bytes-per-shard)",
    "extractor": "the extractor",
    "extractor_sha256": "the extractor's weights",
    "enrol_sha256": "the enrolment manifests (--enrol)",
    "persons_sha256": "the persons of the speakers",
    "genders_sha256": "the speakers' genders",
    "packing": "the version of this program",
}
SEEDS, SHARDS = 1000, 10_000  # tried to find out what a hash was made of
PACKING = 3  # incremented when the same inputs give other bytes, so that one dataset is of one version


@dataclass(frozen=True, slots=True)
class PartResult:
    """A finished part."""

    part: int
    record: ShardRecord
    skipped: bool
    vectors: int  # of speakers


@dataclass(frozen=True)
class Packer:
    """Configuration and resources of a packing process; small, and picklable."""

    manifest: Path
    out: str
    name: str
    seed: int
    manifest_sha256: str
    parts: int
    extractor: str | None  # None: no embeddings
    extractor_sha256: str | None  # of its weights: a dataset never mixes vectors of two models
    enrol: tuple[str, ...]
    enrol_sha256: tuple[str, ...]
    speakers_sha256: tuple[str, ...]  # of the speakers' metadata, which only the bank contains
    persons_sha256: str | None = None  # of speakers with other ids in the enrolment manifests, if there are any
    genders_sha256: str | None = None  # of the speakers' genders, which samples contain, if any is known
    max_self_enrolled: float = 1.0  # share of vectors made from the sample's own speech; changes no bytes
    decode_copied: bool = False  # changes no bytes, only what is quarantined
    device: str | None = None  # accelerator for embeddings in batches; None: on the CPU, one by one

    def __getstate__(self) -> dict[str, Any]:
        return {k: v for k, v in self.__dict__.items() if k not in ("storage", "enroller", "genders")}

    @cached_property
    def storage(self) -> Storage:
        """The output."""
        return open_storage(self.out)

    @cached_property
    def genders(self) -> dict[str, str]:
        """Speaker → gender, of the manifest, without the unknown ones."""
        return read_genders(self.manifest) if self.genders_sha256 else {}

    @cached_property
    def enroller(self) -> Enroller | None:
        """Computes speaker vectors; loads the extractor's weights. None without speakers."""
        if self.extractor is None:
            return None
        import torch

        from shards.voices.enrolment import Enroller
        from shards.voices.extractors import load_extractor
        from shards.voices.persons import other_ids

        torch.set_num_threads(1)  # sums in one order, whatever the number of workers
        extractor = load_extractor(self.extractor, device=self.device) if self.device else self.extractor
        return Enroller(list(self.enrol), extractor, self.seed, other_ids(self.manifest, self.enrol))

    def shard_name(self, part: int) -> str:
        """Return the name of a part's shard."""
        return f"{self.name}-{part:06d}"

    def inputs(self, part: int) -> str:
        """Return the hash of all that determines a part's bytes, except the audio."""
        given = [FORMAT_VERSION, PACKING, self.name, self.seed, self.manifest_sha256, part, self.parts]
        given += [self.extractor_sha256, self.enrol_sha256, *([self.persons_sha256] if self.persons_sha256 else [])]
        given += [{"genders": self.genders_sha256}] if self.genders_sha256 else []
        return hashlib.sha256(json.dumps(given).encode()).hexdigest()

    def finished(self, part: int) -> PartResult | None:
        """Return a finished part, or None.

        Raises:
            ConfigError: the shard was made from other inputs.
        """
        name = self.shard_name(part)
        if not self.storage.exists(index_path(name)):
            return None
        try:
            table, record = index_from_bytes(self.storage.read(index_path(name)), index_path(name))
        except ShardError:
            return None  # a damaged index: packed again
        if record.inputs != self.inputs(part):
            raise other_inputs(f"{self.out}/{index_path(name)} was packed", self._difference(part, record.inputs))
        tar = tar_path(name)
        if not self.storage.exists(tar) or self.storage.size(tar) != record.info.bytes:
            return None
        vectors = pc.sum(pc.list_value_length(table["speakers"])).as_py() or 0 if self.extractor else 0
        return PartResult(part, record, skipped=True, vectors=vectors)

    def _difference(self, part: int, inputs: str) -> str:
        """Return which input of an unfinished dataset's shard was another one: its index has only their hash."""
        for seed in range(SEEDS):
            if replace(self, seed=seed).inputs(part) == inputs:
                return f"{WHAT['seed']} was {seed}, now it is {self.seed}"
        for parts in range(part + 1, SHARDS):
            if replace(self, parts=parts).inputs(part) == inputs:
                return f"{WHAT['parts']} was {parts}, now it is {self.parts}"
        return (
            f"one of these: {', '.join(WHAT[n] for n in ('manifest_sha256', 'enrol_sha256', 'extractor', 'packing'))}"
        )

    def speakers(self, parts: Iterable[int]) -> Iterator[str]:
        """Yield the speakers of the samples of finished parts, with repetitions."""
        for part in parts:
            path = index_path(self.shard_name(part))
            if self.storage.exists(path):
                yield from pc.list_flatten(index_from_bytes(self.storage.read(path), path)[0]["speakers"]).to_pylist()

    def pack(self, part: int, offsets: Sequence[int], max_bad: int, features: Features | None = None) -> PartResult:
        """Pack a part, if it is not finished.

        Args:
            features: computes the features for an accelerator; None computes them in this process.

        Raises:
            DataError: more than `max_bad` of its recordings are unusable, or enrolled from their own speech because
                all clips of a speaker are; or too many vectors are of own speech. Nothing of the part is kept.
            StorageError: the output failed.
        """
        if done := self.finished(part):
            return done
        enroller = self.enroller
        before = (enroller.own_speech, enroller.unenrolled, enroller.made) if enroller else (0, 0, 0)
        if enroller:
            enroller.take_skipped()  # what is listed from here on belongs to this part
            if self.device:
                enroller.prepare(read_recordings(self.manifest, offsets), features)
        with ShardWriter(self.storage, self.shard_name(part), inputs=self.inputs(part)) as writer:
            for recording in read_recordings(self.manifest, offsets):
                try:
                    writer.write(
                        make_sample(recording, enroller, genders=self.genders, decode_copied=self.decode_copied)
                    )
                except (AudioError, ManifestError, SpeakerError) as error:
                    bad = {"file": recording.audio, "key": recording.key, "reason": str(error)}
                    writer.quarantine.append(bad)
                writer.unenrolled = enroller.unenrolled - before[1] if enroller else 0
                if (count := len(writer.quarantine) + writer.unenrolled) > max_bad:
                    stop_above(max_bad, count, writer.quarantine + (enroller.take_skipped() if enroller else []))
                if enroller:
                    own, made = enroller.own_speech - before[0], enroller.made - before[2]
                    if exceeds_early(own, made, self.max_self_enrolled):
                        speakers = (s for r in read_recordings(self.manifest, offsets) for s in r.speakers)
                        raise self_enrolled_error(own, made, self.max_self_enrolled, enroller, speakers)
            if enroller:
                writer.self_enrolled, writer.skipped_clips = enroller.own_speech - before[0], enroller.take_skipped()
        assert writer.record is not None
        made = enroller.made - before[2] if enroller else 0
        return PartResult(part, writer.record, skipped=False, vectors=made)


class PartWorker:
    """Packs parts in one process. Use as a context manager."""

    def __init__(self, packer: Packer, readers: int, place: str) -> None:
        self.packer = replace(packer, device=None if place == CORE else place)
        self._readers, self._stack = readers, ExitStack()

    def __enter__(self) -> PartWorker:
        if self._readers and self.packer.extractor:
            from shards.voices.feature_pool import feature_readers

            self._features = self._stack.enter_context(feature_readers(self._readers))
        return self

    def __exit__(self, *error: object) -> None:
        self._stack.close()

    def __call__(self, part: int, offsets: Sequence[int], max_bad: int) -> PartResult:
        """Pack one part, as :meth:`Packer.pack`."""
        return self.packer.pack(part, offsets, max_bad, self._features)

    _features: Features | None = None


def make_sample(
    recording: Recording, enroller: Enroller | None, *, genders: Mapping[str, str], decode_copied: bool = False
) -> Sample:
    """Make the sample of a recording: audio, segments in order, genders where known, and one vector per speaker.

    Raises:
        AudioError, ManifestError, SpeakerError: the recording is unusable.
    """
    from shards.sound.audio import load_flac

    audio, num_samples = load_flac(
        recording.audio,
        channel=recording.channel,
        start=recording.start,
        duration=recording.duration,
        decode_copied=decode_copied,
    )
    sample = Sample(
        key=recording.key,
        corpus=recording.corpus,
        split=recording.split,
        session=recording.session,
        language=recording.language,
        start=recording.start,
        num_samples=num_samples,
        segments=tuple(sorted(recording.segments, key=lambda s: (s.start, s.end))),
        audio=audio,
        genders={s: genders[s] for s in recording.speakers if s in genders},
    )
    if enroller is None:
        return sample
    sample.validate()  # before its speakers are enrolled
    return sample.with_embeddings(enroller.embed(recording))


def genders_sha256(genders: Mapping[str, str]) -> str | None:
    """Return the hash of the speakers' genders; None if none is known."""
    return hashlib.sha256(json.dumps(sorted(genders.items())).encode()).hexdigest() if genders else None


def difference(before: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """Return which inputs of a dataset differ, with their values where these are short."""
    found = []
    for name in sorted(before.keys() | now.keys()):
        old, new = before.get(name), now.get(name)
        if old != new:
            change = " is another one" if name.endswith("sha256") else f" was {old}, now it is {new}"
            found.append(WHAT.get(name, name) + change)
    return "; ".join(found)


def other_inputs(what: str, differs: str) -> ConfigError:
    """Return the error for output that exists already, of other inputs."""
    return ConfigError(
        f"{what} from another manifest, seed or configuration, or by another version of this program ({differs}); "
        "use the same ones, name another output, or delete the dataset"
    )


def stop_above(max_bad: int, count: int, examples: Sequence[dict[str, str]]) -> None:
    """Raise :class:`DataError` if more recordings are quarantined, or not enrolled, than allowed."""
    if count > max_bad:
        reasons = "; ".join(f"{b['key']}: {b['reason']}" for b in examples[:3])
        raise DataError(
            f"{count} recordings cannot be used or enrolled, {max_bad} are allowed: {reasons} …; "
            "fix the input or raise --max-bad-share, and run again: finished shards are kept"
        )
