"""From what a corpus says of its audio files to one manifest: what every reader of files does alike."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Generic, TypeVar

from shards.errors import AudioError, ManifestError
from shards.manifests.audio_files import AudioInfo, with_info
from shards.manifests.audit import Audit
from shards.manifests.manifest import Recording, SpeakerInfo
from shards.manifests.prepared import Prepared, PrepareOptions, sorted_speakers
from shards.manifests.text_policy import TextPolicy

T = TypeVar("T")


class CorpusSource(ABC, Generic[T]):
    """One manifest of items with a file each. Those that use it are dataclasses with these fields."""

    corpus: str
    split: str
    options: PrepareOptions
    audit: Audit
    policy: str  # of the text, where the command line names none

    def prepared(self, name: str) -> Prepared:
        """The manifest, read as it is iterated."""
        self.text = TextPolicy(self.options.text or self.policy)
        self.speakers: dict[str, SpeakerInfo] = {}
        return Prepared(
            name,
            self._recordings(),
            sorted_speakers(self.speakers),
            lambda: {"text": self.text.result()} | self.audit.result(),
        )

    def _recordings(self) -> Iterator[Recording]:
        items, total = self._files()
        for item, info in with_info(items, self.options.workers, f"{self.corpus} {self.split}", total):
            recording = self._recording(item, info)
            if recording is not None:
                yield recording

    @abstractmethod
    def _files(self) -> tuple[Iterable[tuple[Path, T]], int | None]:
        """Each item with its audio file, and how many there are, where that is known beforehand."""

    @abstractmethod
    def _recording(self, item: T, info: AudioInfo | AudioError) -> Recording | None:
        """What becomes of an item; None where it is left out, which the audit has counted."""


def corpus_not_found(root: Path, corpus: str, expected: str) -> ManifestError:
    """The error for a folder that is not the corpus."""
    return ManifestError(f"{root}: no {corpus} there; expected {expected}")
