"""Speaker embedding extractors: one file per extractor, found by its name, as ``campplus_voxceleb.py`` is by
``--extractor campplus-voxceleb``.

A module defines ``load(source, device, cache) -> Extractor``. Other packages add an extractor by an entry point of the
group ``speakerlm.extractors`` that names such a module.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from shards.errors import ConfigError
from shards.plugins import load_plugin, plugin_names
from shards.weights.fetch import cache_folder

GROUP = "extractors"


class Extractor(Protocol):
    """A speaker model: 16 kHz mono audio in, unit vectors out."""

    id: str  # vectors of different ids are not comparable
    sha256: str  # of the weights
    dim: int

    def embed(self, waves: Sequence[np.ndarray]) -> np.ndarray:
        """Embed waveforms, (num_samples,) each: (n, dim) float32 of unit norm."""
        ...

    def embed_features(self, features: Sequence[np.ndarray]) -> np.ndarray:
        """Embed :func:`shards.voices.features.log_mel` features, (frames, 80) each: (n, dim) float32 of unit norm."""
        ...


def extractor_names() -> list[str]:
    """List the extractors that ``--extractor`` accepts."""
    return plugin_names(GROUP, __name__)


def load_extractor(
    name: str = "campplus", *, checkpoint: Path | None = None, cache: Path | None = None, device: str = "cpu"
) -> Extractor:
    """Load a speaker model by name.

    Args:
        name: ``NAME`` or ``NAME@SOURCE``. NAME is one of :func:`extractor_names`; SOURCE is where its weights are: a
            file or folder, ``modelscope:ORG/MODEL`` or ``hf:ORG/MODEL``. Without it the published weights are used.
        checkpoint: local weight file; the same as SOURCE.
        cache: folder of downloaded packages and of embeddings; None is :func:`shards.weights.fetch.cache_folder`.
        device: in torch's notation.

    Raises:
        ConfigError: an unknown name, or a device that cannot be used.
        FetchError: weights that cannot be downloaded.
        ModelError: weights that do not fit the model; raised at its first use.
    """
    kind, _, source = name.partition("@")
    module = find_extractor(kind)
    if device != "cpu":
        _check_device(device)
    extractor: Extractor = module.load(str(checkpoint) if checkpoint else source, device, cache or cache_folder())
    return extractor


def find_extractor(name: str) -> Any:
    """Return the module of an extractor.

    Raises:
        ConfigError: no extractor has this name, or its module defines no `load`.
    """
    module = load_plugin(GROUP, name, __name__)
    if not callable(getattr(module, "load", None)):
        raise ConfigError(f"extractor {name!r}: {module} defines no function load(source, device, cache)")
    return module


def _check_device(device: str) -> None:
    import torch

    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        first = str(error).partition("\n")[0]
        raise ConfigError(f"device {device!r} cannot be used: {first}; name an available one, or cpu") from error
