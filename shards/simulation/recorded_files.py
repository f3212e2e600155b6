"""Recordings of noise and of impulse responses in a folder."""

from __future__ import annotations

import hashlib
from pathlib import Path

from shards.manifests.manifest import RECORDINGS, SPEAKERS
from shards.weights.fetch import sha256_of

AUDIO_SUFFIXES = {".wav", ".flac", ".ogg", ".mp3", ".opus"}


def content_hashes(noise: str, rooms: str) -> list[str]:
    """What the two names stand for, where that is files: other ones in their place are other noise and other rooms.

    Returns:
        A hash for each that is of files: of a manifest, or of the names and sizes of a folder's recordings.
    """
    found = []
    if noise.startswith("babble:"):
        manifest = Path(noise.removeprefix("babble:"))
        found += [sha256_of(manifest / name) for name in (RECORDINGS, SPEAKERS)]
    for name in (noise, rooms):
        folder = Path(name)
        if name not in ("none", "coloured", "pyroomacoustics") and not name.startswith("babble:"):
            files = sorted(p for p in folder.rglob("*") if p.suffix.lower() in AUDIO_SUFFIXES)
            told = "".join(f"{p.relative_to(folder)} {p.stat().st_size}\n" for p in files)
            found.append(hashlib.sha256(told.encode()).hexdigest())
    return found
