"""WenetSpeech: 10,000 hours of Mandarin from the web; ``WenetSpeech.json`` and long Opus files.

The list of 14 million segments is streamed (ijson), once per subset. Every segment becomes a recording: a span of the
long file. Speakers are not annotated: the speaker is ``wenetspeech:unknown``, usable for recognition but not for
simulation or enrolment.

Manifests: ``train-l``, ``train-m``, ``train-s`` (nested: use one of them), ``dev``, ``test-net``, ``test-meeting``; a
subset without segments on disk is empty. Lhotse's recipe is not used: it reads the whole list into memory.
"""

from __future__ import annotations

from pathlib import Path

from shards.manifests.corpus_source import corpus_not_found
from shards.manifests.long_audio_lists import LongAudio
from shards.manifests.prepare_types import Prepared, PrepareOptions

SUBSETS = {"train-l": "L", "train-m": "M", "train-s": "S", "dev": "DEV", "test-net": "TEST_NET"}
SUBSETS |= {"test-meeting": "TEST_MEETING"}


def prepare(root: Path, out: Path, options: PrepareOptions) -> list[Prepared]:
    """Return a manifest per subset."""
    listing = root / "WenetSpeech.json"
    if not listing.is_file():
        raise corpus_not_found(root, "WenetSpeech", "WenetSpeech.json and the folder audio")
    return [
        LongAudio("wenetspeech", "zh", listing, name, subset, options).prepared() for name, subset in SUBSETS.items()
    ]
