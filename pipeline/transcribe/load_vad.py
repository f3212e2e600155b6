"""Voice activity detectors by name."""

from __future__ import annotations

from pathlib import Path

from pipeline.transcribe.vad import Energy, Silero, Vad
from shards.errors import ConfigError
from shards.weights.vad_weights import silero_weights


def load_vad(name: str = "silero", cache: Path | None = None) -> Vad:
    """Return a fresh detector.

    Raises:
        ConfigError: an unknown name.
        FetchError: Silero's package is not in the cache and cannot be downloaded; ``energy`` works without.
    """
    if name == "energy":
        return Energy()
    if name != "silero":
        raise ConfigError(f"unknown voice activity detector {name!r}, known: silero, energy")
    return Silero(silero_weights(cache))
