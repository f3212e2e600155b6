"""Lengths of a corpus's audio files, read in parallel."""

from __future__ import annotations

from collections.abc import Container, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TypeVar

import soundfile
from tqdm import tqdm

from shards.errors import AudioError, DataError
from shards.sample import SAMPLE_RATE
from shards.sound.audio import MAX_FRAMES, load, open_sound

SUFFIXES = (".wav", ".flac", ".opus", ".ogg", ".mp3", ".m4a", ".g722", ".gsm", ".sph", ".aac")
_AHEAD = 512
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class AudioInfo:
    """Length and channel count of an audio file."""

    seconds: float
    channels: int


def audio_info(path: Path) -> AudioInfo:
    """Read length and channels from the header; a file whose header does not give the length is decoded.

    Raises:
        AudioError: missing, empty, or not audio.
    """
    found, channels = None, 1
    try:
        with open_sound(path) as file:
            channels = file.channels
            if file.frames <= MAX_FRAMES:
                found = AudioInfo(file.frames / file.samplerate, channels)
    except (soundfile.SoundFileError, OSError, TypeError, ValueError):
        if not path.is_file():
            raise AudioError(f"{path}: no such file") from None
    if found is None:
        found = AudioInfo(len(load(path)) / SAMPLE_RATE, channels)
    if found.seconds <= 0:
        raise AudioError(f"{path}: no audio samples")
    return found


def with_info(
    items: Iterable[tuple[Path, T]], workers: int, what: str, total: int | None = None
) -> Iterator[tuple[T, AudioInfo | AudioError]]:
    """Yield each item with its file's length or the error of reading it; in order, `workers` headers in parallel."""
    items = iter(items)
    with (
        ThreadPoolExecutor(max(1, workers)) as pool,
        tqdm(desc=what, total=total, unit="file", disable=None) as bar,
    ):
        while batch := list(islice(items, _AHEAD)):
            for (_, item), info in zip(batch, pool.map(_try, [path for path, _ in batch]), strict=True):
                bar.update()
                yield item, info


def audio_by_stem(folder: Path, wanted: Container[str] | None = None) -> dict[str, Path]:
    """Map file stems to audio files under a folder; of several suffixes in one folder the first by name wins.

    Args:
        wanted: stems to look for; None: all.

    Raises:
        DataError: files with the same stem in different folders, an ambiguity that only the user can resolve.
    """
    found: dict[str, Path] = {}
    for path in sorted(folder.rglob("*")):
        if path.suffix.lower() in SUFFIXES and (wanted is None or path.stem in wanted):
            other = found.setdefault(path.stem, path)
            if other.parent != path.parent:
                raise DataError(
                    f"{other} and {path}: two audio files with the same name, so transcripts are ambiguous; rename one "
                    "or give a folder that holds only one of them"
                )
    return found


def _try(path: Path) -> AudioInfo | AudioError:
    try:
        return audio_info(path)
    except AudioError as error:
        return error
