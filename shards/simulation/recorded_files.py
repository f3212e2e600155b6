"""Recordings of noise and impulse responses in folders: hashes of them, and the list of those that are silent."""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np

from shards.manifests.manifest import RECORDINGS, SPEAKERS
from shards.storage.folders import files_below

AUDIO_SUFFIXES = {".wav", ".flac", ".ogg", ".mp3", ".opus"}
SILENCE = 2.0**-24  # a smaller change between two samples is no sound: one step of 24 bits
Report = Callable[[str], None]  # takes the name of a silent file

logger = logging.getLogger(__name__)


def is_silent(wave: np.ndarray) -> bool:
    """Return whether a wave (n,) is digital silence: one constant value."""
    return not len(sounding(wave))


def sounding(wave: np.ndarray) -> np.ndarray:
    """Return the places (m,) in a wave (n,) whose next sample has another value."""
    return np.flatnonzero(np.abs(np.diff(wave)) > SILENCE)


def recorded_files(folder: Path) -> list[Path]:
    """List the audio files under a folder and under folders that it links to, sorted."""
    return [p for p in files_below(folder) if p.suffix.lower() in AUDIO_SUFFIXES]


def file_hash(path: Path) -> str:
    """Return the sha256 of a file's content, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def content_hashes(noise: str, rooms: str) -> list[str]:
    """Hash the files behind ``--noise`` and ``--rooms``, so that a set is made again when they change.

    Returns:
        A hash for each option that names files: of a manifest, or of the names and sizes of a folder's recordings.
    """
    found = []
    if noise.startswith("babble:"):
        manifest = Path(noise.removeprefix("babble:"))
        found += [file_hash(manifest / name) for name in (RECORDINGS, SPEAKERS)]
    for name in (noise, rooms):
        folder = Path(name)
        if name not in ("none", "coloured", "pyroomacoustics") and not name.startswith("babble:"):
            listing = "".join(f"{p.relative_to(folder)} {p.stat().st_size}\n" for p in recorded_files(folder))
            found.append(hashlib.sha256(listing.encode()).hexdigest())
    return found


class SilentFiles:
    """The silent files that the processes of a set have drawn, by name: a text file with a line for each.

    Every process appends what it finds before it writes the conversation, so that a resumed set lists all of them.
    """

    def __init__(self, path: Path) -> None:
        self.path, self._seen = path, set[str]()

    def __call__(self, file: str) -> None:
        """List a file."""
        if file in self._seen:
            return
        self._seen.add(file)
        if file in self.names():
            return
        logger.warning("%s is silent: another recording is taken, and the audit lists it", file)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
        try:
            os.write(descriptor, f"{file}\n".encode(errors="surrogateescape"))  # one write: lines do not mix
        finally:
            os.close(descriptor)

    def names(self) -> list[str]:
        """Return the files listed so far, sorted."""
        with contextlib.suppress(FileNotFoundError):
            return sorted(set(self.path.read_bytes().decode(errors="surrogateescape").splitlines()))
        return []
