"""Pack one part of a manifest into one shard."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from shards.dataset.index import ShardRecord, index_from_bytes, index_path, tar_path
from shards.dataset.writer import ShardWriter
from shards.errors import AudioError, ConfigError, DataError, ManifestError, ShardError, SpeakerError
from shards.manifests.manifest import Recording
from shards.packing.partition import read_recordings
from shards.sample import FORMAT_VERSION, Sample
from shards.storage.interface import Storage, open_storage

if TYPE_CHECKING:
    from shards.voices.enrolment import Enroller, Features

CORE = "core"  # a place without an accelerator
OTHER_INPUTS = (
    "from another manifest, seed or configuration, or by another version of this program; "
    "use the same ones, name another output, or delete the dataset"
)
PACKING = 2  # incremented when the same inputs give other bytes, so that one dataset is of one version


@dataclass(frozen=True, slots=True)
class PartResult:
    """A finished part."""

    part: int
    record: ShardRecord
    skipped: bool


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
    decode_copied: bool = False  # changes no bytes, only what is quarantined
    device: str | None = None  # accelerator for embeddings in batches; None: on the CPU, one by one

    def __getstate__(self) -> dict[str, Any]:
        return {k: v for k, v in self.__dict__.items() if k not in ("storage", "enroller")}

    @cached_property
    def storage(self) -> Storage:
        """The output."""
        return open_storage(self.out)

    @cached_property
    def enroller(self) -> Enroller | None:
        """Computes speaker vectors; loads the extractor's weights. None without speakers."""
        if self.extractor is None:
            return None
        import torch

        from shards.voices.enrolment import Enroller
        from shards.voices.extractors import load_extractor

        torch.set_num_threads(1)  # sums in one order, whatever the number of workers
        extractor = load_extractor(self.extractor, device=self.device) if self.device else self.extractor
        return Enroller(list(self.enrol), extractor, self.seed)

    def shard_name(self, part: int) -> str:
        """Return the name of a part's shard."""
        return f"{self.name}-{part:06d}"

    def inputs(self, part: int) -> str:
        """Return the hash of all that determines a part's bytes, except the audio."""
        given = [FORMAT_VERSION, PACKING, self.name, self.seed, self.manifest_sha256, part, self.parts]
        return hashlib.sha256(json.dumps([*given, self.extractor_sha256, self.enrol_sha256]).encode()).hexdigest()

    def finished(self, part: int) -> ShardRecord | None:
        """Return the record of a finished part, or None.

        Raises:
            ConfigError: the shard was made from other inputs.
        """
        name = self.shard_name(part)
        if not self.storage.exists(index_path(name)):
            return None
        try:
            _, record = index_from_bytes(self.storage.read(index_path(name)), index_path(name))
        except ShardError:
            return None  # a damaged index: packed again
        if record.inputs != self.inputs(part):
            raise ConfigError(f"{self.out}/{index_path(name)} was packed {OTHER_INPUTS}")
        tar = tar_path(name)
        if not self.storage.exists(tar) or self.storage.size(tar) != record.info.bytes:
            return None
        return record

    def pack(self, part: int, offsets: Sequence[int], max_bad: int, features: Features | None = None) -> PartResult:
        """Pack a part, if it is not finished.

        Args:
            features: computes the features for an accelerator; None computes them in this process.

        Raises:
            DataError: more than `max_bad` of its recordings are unusable, or enrolled from their own speech because
                all clips of a speaker are. Nothing of the part is kept.
            StorageError: the output failed.
        """
        record = self.finished(part)
        if record:
            return PartResult(part, record, skipped=True)
        enroller = self.enroller
        before = (enroller.own_speech, enroller.unenrolled) if enroller else (0, 0)
        if enroller:
            enroller.take_skipped()  # what is listed from here on belongs to this part
            if self.device:
                enroller.prepare(read_recordings(self.manifest, offsets), features)
        with ShardWriter(self.storage, self.shard_name(part), inputs=self.inputs(part)) as writer:
            for recording in read_recordings(self.manifest, offsets):
                try:
                    writer.write(make_sample(recording, enroller, decode_copied=self.decode_copied))
                except (AudioError, ManifestError, SpeakerError) as error:
                    bad = {"file": recording.audio, "key": recording.key, "reason": str(error)}
                    writer.quarantine.append(bad)
                writer.unenrolled = enroller.unenrolled - before[1] if enroller else 0
                if (count := len(writer.quarantine) + writer.unenrolled) > max_bad:
                    stop_above(max_bad, count, writer.quarantine + (enroller.take_skipped() if enroller else []))
            if enroller:
                writer.self_enrolled, writer.skipped_clips = enroller.own_speech - before[0], enroller.take_skipped()
        assert writer.record is not None
        return PartResult(part, writer.record, skipped=False)


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


def make_sample(recording: Recording, enroller: Enroller | None, *, decode_copied: bool = False) -> Sample:
    """Make the sample of a recording: audio, segments in order, and one vector per speaker.

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
    )
    if enroller is None:
        return sample
    sample.validate()  # before its speakers are enrolled
    return sample.with_embeddings(enroller.embed(recording))


def stop_above(max_bad: int, count: int, examples: Sequence[dict[str, str]]) -> None:
    """Raise :class:`DataError` if more recordings are quarantined, or not enrolled, than allowed."""
    if count > max_bad:
        reasons = "; ".join(f"{b['key']}: {b['reason']}" for b in examples[:3])
        raise DataError(
            f"{count} recordings cannot be used or enrolled, {max_bad} are allowed: {reasons} …; "
            "fix the input or raise --max-bad-share, and run again: finished shards are kept"
        )
