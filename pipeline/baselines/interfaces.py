"""Interfaces of a cascade: timed words, timed turns, recogniser and diarizer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from shards.errors import ConfigError


@dataclass(frozen=True, slots=True)
class Word:
    """A word, or a character of Chinese. Seconds from the beginning of the audio."""

    text: str  # with the white space before it
    start: float
    end: float


@dataclass(frozen=True, slots=True)
class DiarizedTurn:
    """A stretch of speech of one voice; turns of two voices may overlap."""

    speaker: str
    start: float
    end: float


class Recogniser(Protocol):
    """Speech recognition with times."""

    id: str

    def words(self, wave: np.ndarray, language: str | None) -> list[Word]:
        """(n,) float32 at 16 kHz → its words in order.

        Args:
            language: ISO 639-1 code; None: detect it.
        """
        ...


class Diarizer(Protocol):
    """Diarization without names."""

    id: str

    def turns(self, wave: np.ndarray, session: str = "") -> list[DiarizedTurn]:
        """(n,) float32 at 16 kHz → turns in order of start; `session` is the clip's key, for stored turns."""
        ...


def missing(package: str, model: str, install: str, error: Exception) -> ConfigError:
    """Return the error for a system whose library is not installed."""
    return ConfigError(f"{model} needs {package}, which cannot be imported ({error}): {install}")


def unloadable(model: str, error: Exception, advice: str) -> ConfigError:
    """Return the error for weights that cannot be loaded; hubs raise errors of many kinds."""
    reason = " ".join(str(error).split())[:300]
    return ConfigError(f"{model} could not be loaded ({type(error).__name__}: {reason}). {advice}")


def as_seconds(value: Any, where: str) -> float:
    """Convert a system's time stamp.

    Raises:
        ConfigError: it is not a finite number.
    """
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = np.nan
    if not np.isfinite(number):
        raise ConfigError(f"{where} gave {value!r} for a time: its output is not of the documented form")
    return number
