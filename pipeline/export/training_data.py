"""Numbers of a run's packed datasets, for its model card."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pipeline.recipe.schema import Recipe
from shards.dataset.dataset import open_dataset
from shards.errors import SpeakerLMError
from shards.sample import SAMPLE_RATE

MOST_SHARDS = 64  # whose indices are read: evenly spread over a dataset


@dataclass(frozen=True)
class DataFacts:
    """A dataset in numbers."""

    hours: float
    samples: int
    corpora: tuple[str, ...]
    languages: tuple[str, ...]
    shortest: float  # seconds of a clip
    median: float
    longest: float

    @property
    def lengths(self) -> str:
        """Lengths of clips, as a card says them."""
        return f"{self.shortest:.1f}–{self.longest:.1f} s, median {self.median:.1f} s"


def data_facts(path: str) -> DataFacts | None:
    """Read a dataset on this machine; None if it is elsewhere, has gone, has no shards, or cannot be read.

    Lengths, corpora and languages are those of at most ``MOST_SHARDS`` shards.
    """
    if "://" in path or not Path(path).is_dir():
        return None
    try:
        dataset = open_dataset(path)
        if not (count := len(dataset.shards)):
            return None
        chosen = np.unique(np.linspace(0, count - 1, min(count, MOST_SHARDS)).round().astype(int))
        tables = [dataset.index(int(i)).select(["corpus", "language", "num_samples"]).to_pydict() for i in chosen]
    except SpeakerLMError:
        return None
    seconds = np.concatenate([np.asarray(t["num_samples"]) for t in tables]) / SAMPLE_RATE
    return DataFacts(
        hours=dataset.hours,
        samples=dataset.samples,
        corpora=tuple(sorted({c for t in tables for c in t["corpus"]})),
        languages=tuple(sorted({c for t in tables for c in t["language"]})),
        shortest=float(seconds.min()),
        median=float(np.median(seconds)),
        longest=float(seconds.max()),
    )


def hashes_of_extractors(recipe: Recipe) -> list[str]:
    """List the sha256 of the weights that made the vectors of a run's training data, as far as these are in reach."""
    found: dict[str, None] = {}
    for share in recipe.data.train:
        if "://" not in share.path and Path(share.path).is_dir():
            try:
                sha256 = open_dataset(share.path, extractor=share.extractor).extractor_sha256
            except SpeakerLMError:
                continue
            found |= {sha256: None} if sha256 else {}
    return list(found)
