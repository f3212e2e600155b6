"""Recordings of noise and impulse responses in folders, and hashes of them."""

from __future__ import annotations

import hashlib
from pathlib import Path

from shards.manifests.manifest import RECORDINGS, SPEAKERS
from shards.weights.fetch import sha256_of

AUDIO_SUFFIXES = {".wav", ".flac", ".ogg", ".mp3", ".opus"}


def recorded_files(folder: Path) -> list[Path]:
    """List the audio files under a folder, sorted."""
    return sorted(p for p in folder.rglob("*") if p.suffix.lower() in AUDIO_SUFFIXES)


def content_hashes(noise: str, rooms: str) -> list[str]:
    """Hash the files behind ``--noise`` and ``--rooms``, so that a set is made again when they change.

    Returns:
        A hash for each option that names files: of a manifest, or of the names and sizes of a folder's recordings.
    """
    found = []
    if noise.startswith("babble:"):
        manifest = Path(noise.removeprefix("babble:"))
        found += [sha256_of(manifest / name) for name in (RECORDINGS, SPEAKERS)]
    for name in (noise, rooms):
        folder = Path(name)
        if name not in ("none", "coloured", "pyroomacoustics") and not name.startswith("babble:"):
            listing = "".join(f"{p.relative_to(folder)} {p.stat().st_size}\n" for p in recorded_files(folder))
            found.append(hashlib.sha256(listing.encode()).hexdigest())
    return found
