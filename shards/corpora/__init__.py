"""One file per corpus, found by its name: ``packaged_speech.py`` is ``prepare packaged-speech ROOT OUT``.

A corpus module defines ``prepare(root, out, options) -> Iterable[Prepared]``. Audio stays where it is; only a corpus
whose audio has to be decoded or cut writes files, under `out`. Other packages add a corpus by an entry point of the
group ``speakerlm.corpora`` that names such a module.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

from shards.errors import ConfigError
from shards.manifests.prepare_types import Prepared, PrepareOptions
from shards.plugins import load_plugin, plugin_names

Prepare = Callable[[Path, Path, PrepareOptions], Iterable[Prepared]]


def corpus_names() -> list[str]:
    """List the corpora that `prepare` knows, as written on the command line."""
    return plugin_names("corpora", __name__)


def find_corpus(name: str) -> Prepare:
    """Return the `prepare` function of a corpus.

    Raises:
        ConfigError: no corpus has this name, or its module defines no `prepare`.
    """
    module = load_plugin("corpora", name, __name__)
    function: Prepare | None = getattr(module, "prepare", None)
    if function is None:
        raise ConfigError(f"corpus {name!r}: {module} defines no function prepare(root, out, options)")
    return function
