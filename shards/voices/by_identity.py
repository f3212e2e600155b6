"""The extractor that made vectors of a known id."""

from __future__ import annotations

from pathlib import Path

from shards.errors import ConfigError
from shards.voices.extractors import Extractor, extractor_names, load_extractor


def name_of(identity: str) -> str | None:
    """Return the name for :func:`load_extractor` of an extractor's id; None if no extractor has such ids."""
    names = sorted(extractor_names(), key=len)
    fitting = [n for n in names if identity == n or identity.startswith((f"{n}_", f"{n}-"))]
    return fitting[-1] if fitting else None


def extractor_for(identity: str, device: str, cache: Path | None = None, name: str | None = None) -> Extractor:
    """Load the extractor whose vectors a model was trained with.

    Args:
        identity: its id in the model's configuration.
        name: ``NAME@SOURCE`` of :func:`load_extractor`; None: by the id.

    Raises:
        ConfigError: the id is unknown, or the named extractor has another id.
    """
    name = name or name_of(identity)
    if name is None:
        raise ConfigError(f"unknown speaker extractor {identity!r}; name it with --extractor NAME@SOURCE")
    found = load_extractor(name, cache=cache, device=device)
    if found.id != identity:
        raise ConfigError(
            f"the model was trained with vectors of {identity}, not of {found.id} ({name}); use --extractor"
        )
    return found
