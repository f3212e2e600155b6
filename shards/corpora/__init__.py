"""One file per corpus, found by its name: ``packaged_speech.py`` is ``prepare packaged-speech ROOT OUT``.

Such a file holds ``prepare(root, out, options) -> list[Prepared]``: it reads what lies under `root` and says what is
there. Only a corpus whose audio has to be decoded or cut first writes audio, under `out`.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from shards.errors import ConfigError
from shards.manifests.manifest import Recording, SpeakerInfo


@dataclass(frozen=True)
class Options:
    """What the command line says. A corpus with a layout of its own needs none of it."""

    workers: int = 1  # threads or processes that open audio
    text: str | None = None  # a policy of shards.manifests.text; None: the corpus's own
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


def in_order(speakers: Mapping[str, SpeakerInfo]) -> Iterator[SpeakerInfo]:
    """Those that are there when the first one is asked for, after the recordings have been read."""
    for speaker in sorted(speakers):
        yield speakers[speaker]


def corpus_names() -> list[str]:
    """Corpora that `prepare` knows, as written on the command line."""
    return sorted(m.name.replace("_", "-") for m in pkgutil.iter_modules(__path__))


def find_corpus(name: str) -> Callable[[Path, Path, Options], Iterable[Prepared]]:
    """The `prepare` function of a corpus.

    Raises:
        ConfigError: there is no file of that name.
    """
    if name not in corpus_names():
        raise ConfigError(f"corpus {name!r} is not known; known are {', '.join(corpus_names())}")
    module = importlib.import_module(f"{__name__}.{name.replace('-', '_')}")
    function: Callable[[Path, Path, Options], Iterable[Prepared]] = module.prepare
    return function
