"""The manifests that a corpus yields, and the options with which they are made."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from shards.manifests.manifest import Recording, SpeakerInfo


@dataclass(frozen=True)
class PrepareOptions:
    """What the command line says. A corpus with a layout of its own needs none of it."""

    workers: int = 1  # threads or processes that open audio
    text: str | None = None  # a policy of shards.manifests.text_policy; None: the corpus's own
    name: str = ""  # generic formats: the corpus's name in keys and speaker ids; "": that of the folder
    language: str = "und"  # generic formats
    session_speakers: bool = False  # generic formats: speaker ids are those of a session and used again in others
    audio: Path | None = None  # generic formats: where the audio is; None: under root


@dataclass(frozen=True)
class Prepared:
    """One manifest that a corpus yields, a split or a kind of content; `name` is its folder under OUT.

    `recordings` is iterated once; `speakers` and `audit` are looked at afterwards, so a corpus of any size can be
    read as a stream and counted on the way.
    """

    name: str
    recordings: Iterable[Recording]
    speakers: Iterable[SpeakerInfo]
    audit: Mapping[str, Any] | Callable[[], Mapping[str, Any]] = field(default_factory=dict)


def sorted_speakers(speakers: Mapping[str, SpeakerInfo]) -> Iterator[SpeakerInfo]:
    """Those that are there when the first one is asked for, after the recordings have been read."""
    for speaker in sorted(speakers):
        yield speakers[speaker]
