"""Base class of manifests that are built from one item per audio file."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Generic, TypeVar

from shards.errors import AudioError, ManifestError
from shards.manifests.audio_files import AudioInfo, Source, with_info
from shards.manifests.audit import Audit
from shards.manifests.keys import Keys
from shards.manifests.manifest import Recording, SpeakerInfo
from shards.manifests.prepare_types import Prepared, PrepareOptions, sorted_speakers
from shards.manifests.text_policy import TextPolicy

T = TypeVar("T")


class CorpusSource(ABC, Generic[T]):
    """A manifest of items with one audio file each. Subclasses are dataclasses with these fields."""

    corpus: str
    split: str
    options: PrepareOptions
    audit: Audit
    policy: str  # text policy unless the command line names one

    def prepared(self, name: str) -> Prepared:
        """Return the manifest; the files are read while its recordings are iterated."""
        self.text = TextPolicy(self.options.text or self.policy)
        self.speakers: dict[str, SpeakerInfo] = {}
        self.keys = Keys()
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
    def _files(self) -> tuple[Iterable[tuple[Source, T]], int | None]:
        """Return pairs of audio source and item, and their number if known in advance."""

    @abstractmethod
    def _recording(self, item: T, info: AudioInfo | AudioError) -> Recording | None:
        """Turn an item into a recording; None if it is skipped, after counting it in the audit."""


def corpus_not_found(root: Path, corpus: str, expected: str) -> ManifestError:
    """Return the error for a folder that does not contain the corpus."""
    found = f"{corpus} not found" if root.exists() else "no such file or folder"
    return ManifestError(f"{root}: {found}; expected {expected}")
