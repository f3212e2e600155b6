"""Lengths of a corpus's audio files, read in parallel."""

from __future__ import annotations

from collections.abc import Container, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TypeVar

from shards.errors import AudioError, DataError
from shards.manifests.audit import Audit
from shards.sound.streams import open_stream
from shards.storage.folders import files_below
from shards.storage.sources import Command, joined, local_file
from shards.workers import progress

SUFFIXES = (".wav", ".flac", ".opus", ".ogg", ".mp3", ".m4a", ".g722", ".gsm", ".sph", ".aac")
_AHEAD = 512
T = TypeVar("T")
Source = str | Path | Command


@dataclass(frozen=True, slots=True)
class AudioInfo:
    """Length and channel count of an audio file, and what a manifest calls it: an absolute path, or a URL."""

    seconds: float
    channels: int
    audio: str


def audio_info(source: Source) -> AudioInfo:
    """Read length and channels from the header; a file whose header does not give the length is decoded.

    A command is run, and the file that it wrote is read.

    Raises:
        AudioError: missing, empty, or not audio; the command failed.
        StorageError: the server of a URL failed.
    """
    if isinstance(source, Command):
        source = source.run()
    with local_file(source) as path:
        seconds, channels = _length(path)
    return AudioInfo(seconds, channels, joined(Path.cwd(), str(source)))


def _length(path: Path) -> tuple[float, int]:
    """Return seconds and channels of a local file."""
    with open_stream(path) as stream:
        frames = stream.frames
        if frames is None:
            frames = sum(len(block) for block in stream.blocks())
    if frames <= 0:
        raise AudioError(f"{path}: no audio samples")
    return frames / stream.rate, stream.channels


def is_file(path: Path) -> bool:
    """Return whether a file exists; False too for a name that the file system does not accept, such as a longer one."""
    try:
        return path.is_file()
    except OSError:
        return False


def with_info(
    items: Iterable[tuple[Source, T]], workers: int, what: str, total: int | None = None
) -> Iterator[tuple[T, AudioInfo | AudioError]]:
    """Yield each item with its file's length or the error of reading it; in order, `workers` headers in parallel.

    A source of several items in a row is opened once.
    """
    items = iter(items)
    with (
        ThreadPoolExecutor(max(1, workers)) as pool,
        progress(desc=what, total=total, unit="file") as bar,
    ):
        while batch := list(islice(items, _AHEAD)):
            sources = list(dict.fromkeys(source for source, _ in batch))
            infos = dict(zip(sources, pool.map(_try, sources), strict=True))
            for source, item in batch:
                bar.update()
                yield item, infos[source]


def audio_by_stem(folder: Path, audit: Audit, wanted: Container[str] | None = None) -> dict[str, Path]:
    """Map file stems to audio files under a folder, and in folders that it links to.

    Of several suffixes in one folder the first by name is used, and the others are counted.

    Args:
        wanted: stems to look for; None: all.

    Raises:
        DataError: files with the same stem in different folders, an ambiguity that only the user can resolve.
    """
    found: dict[str, Path] = {}
    for path in files_below(folder):
        if path.suffix.lower() in SUFFIXES and (wanted is None or path.stem in wanted):
            other = found.setdefault(path.stem, path)
            if other.parent == path.parent and other != path:
                audit.skip("audio in a second format", f"{path}, next to {other.name}")
            elif other.parent != path.parent:
                raise DataError(
                    f"{other} and {path}: two audio files with the same name, so transcripts are ambiguous; rename one "
                    "or give a folder that holds only one of them"
                )
    return found


def _try(source: Source) -> AudioInfo | AudioError:
    try:
        return audio_info(source)
    except AudioError as error:
        return AudioError(str(error))  # without a traceback, whose frames would stay in memory
