"""WenetSpeech: 10,000 hours of Mandarin from the web; ``WenetSpeech.json`` and long Opus files beside it.

The list of 14 million segments is read as a stream (ijson), once per subset. Every segment is a recording of its own
with its place in the long file. Nobody knows who speaks: the speaker is ``wenetspeech:unknown``, for training
recognition but not for simulation or enrolment.

Gives ``train-l``, ``train-m``, ``train-s`` (nested: take one of them), ``dev``, ``test-net``, ``test-meeting``; one
without segments here is empty. Lhotse's recipe is not used: it holds the whole list in memory.
"""

from __future__ import annotations

from pathlib import Path

from shards.manifests.corpus_source import corpus_not_found
from shards.manifests.long_audio import LongAudio
from shards.manifests.prepared import Prepared, PrepareOptions

SUBSETS = {"train-l": "L", "train-m": "M", "train-s": "S", "dev": "DEV", "test-net": "TEST_NET"}
SUBSETS |= {"test-meeting": "TEST_MEETING"}


def prepare(root: Path, out: Path, options: PrepareOptions) -> list[Prepared]:
    """The subsets."""
    listing = root / "WenetSpeech.json"
    if not listing.is_file():
        raise corpus_not_found(root, "WenetSpeech", "WenetSpeech.json and the folder audio")
    return [
        LongAudio("wenetspeech", "zh", listing, name, subset, "text", options).prepared()
        for name, subset in SUBSETS.items()
    ]
