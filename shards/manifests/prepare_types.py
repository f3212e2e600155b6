"""The manifests that a corpus yields, and the options with which they are made."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from shards.manifests.manifest import Recording, SpeakerInfo

COMMAND_SECONDS = 600.0  # that a command may take, unless the command line names another time


@dataclass(frozen=True)
class PrepareOptions:
    """Options of ``prepare`` that corpora read. Most serve the generic formats only."""

    workers: int = 1  # threads or processes that open audio
    text: str | None = None  # a policy of shards.manifests.text_policy; None: the corpus's own
    name: str = ""  # generic formats: name of the corpus in keys and speaker ids; "": the folder's name
    language: str = "und"  # generic formats
    session_speakers: bool = False  # generic formats: speaker ids are unique within a session only
    audio: Path | None = None  # generic formats: where the audio is; None: under root
    untranscribed: frozenset[str] = frozenset()  # generic formats: manifests whose speech may lack words
    command_seconds: float | None = None  # that a command of a manifest may take; None: commands are not run


@dataclass(frozen=True)
class Prepared:
    """A manifest that a corpus yields: a split or a kind of content; `name` is its folder under OUT.

    `recordings` is iterated once; `speakers` and `audit` are evaluated afterwards, so a corpus of any size can be
    streamed and counted on the way.
    """

    name: str
    recordings: Iterable[Recording]
    speakers: Iterable[SpeakerInfo]
    audit: Mapping[str, Any] | Callable[[], Mapping[str, Any]] = field(default_factory=dict)


def sorted_speakers(speakers: Mapping[str, SpeakerInfo]) -> Iterator[SpeakerInfo]:
    """Yield speakers by id. The mapping is read at the first iteration, after the recordings have filled it."""
    for speaker in sorted(speakers):
        yield speakers[speaker]
