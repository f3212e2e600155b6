"""One file per corpus, found by its name: ``packaged_speech.py`` is ``prepare packaged-speech ROOT OUT``.

Such a file holds ``prepare(root, out, workers) -> list[Prepared]``: it reads what lies under `root` and says what is
there. Only a corpus whose audio has to be decoded or cut first writes audio, under `out`.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from shards.errors import ConfigError
from shards.manifests import Recording, SpeakerInfo

_NOT_CORPORA = {"fetch", "prepare"}


@dataclass(frozen=True)
class Prepared:
    """One manifest that a corpus yields, a split or a kind of content; `name` is its folder under OUT."""

    name: str
    recordings: list[Recording]
    speakers: list[SpeakerInfo]
    audit: dict[str, Any] = field(default_factory=dict)  # what was skipped and why, the text policy, …


def corpus_names() -> list[str]:
    """Corpora that `prepare` knows, as written on the command line."""
    return sorted(m.name.replace("_", "-") for m in pkgutil.iter_modules(__path__) if m.name not in _NOT_CORPORA)


def find_corpus(name: str) -> Callable[[Path, Path, int], list[Prepared]]:
    """The `prepare` function of a corpus.

    Raises:
        ConfigError: there is no file of that name.
    """
    if name not in corpus_names():
        raise ConfigError(f"corpus {name!r} is not known; known are {', '.join(corpus_names())}")
    module = importlib.import_module(f"{__name__}.{name.replace('-', '_')}")
    function: Callable[[Path, Path, int], list[Prepared]] = module.prepare
    return function
