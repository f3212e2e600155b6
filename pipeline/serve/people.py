"""People enrolled on the server: one JSON file per person in a folder, with the vector and the extractor's hash.

The audio is not kept, unless the server is started so: then it is stored as FLAC beside the vector. A file's name is a
hash of the person's name, which may hold characters that a file's name cannot.
"""

from __future__ import annotations

import hashlib
import json
import threading
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.transcribe.enrolment import Enrolled
from pipeline.transcribe.recording_transcriber import NO_ENROLMENT
from shards.errors import ConfigError, SpeakerError
from shards.storage.local import atomic_file

SUFFIX = ".speaker.json"


@dataclass(frozen=True)
class KnownVoice:
    """An enrolled person."""

    name: str
    extractor: str  # id
    extractor_sha256: str
    created: int  # seconds since 1970
    vector: tuple[float, ...]  # of unit norm


class PeopleFolder:
    """Vectors of enrolled people, in memory and in a folder. Safe to use from several threads."""

    def __init__(self, folder: Path, extractor: str, sha256: str, most: int, keep_audio: bool = False) -> None:
        """Read the folder; it is created if it is missing.

        Args:
            extractor: id of the extractor whose vectors the model knows.
            sha256: of its weights.
            most: people who may be enrolled.
            keep_audio: store the clips also.

        Raises:
            ConfigError: the folder is not writable, or holds people enrolled with another extractor.
            SpeakerError: a damaged file.
        """
        self._folder, self._extractor, self._sha256, self._most = folder, extractor, sha256, most
        self.keep_audio = keep_audio
        self._lock = threading.Lock()
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as e:
            raise ConfigError(f"--enrol-dir {folder}: {e.strerror or e}; choose a writable folder") from e
        found = [_read(path) for path in sorted(folder.glob(f"*{SUFFIX}"))]
        if other := [p for p in found if (p.extractor, p.extractor_sha256) != (extractor, sha256)]:
            raise ConfigError(
                f"--enrol-dir {folder}: {len(other)} of {len(found)} people were enrolled with {other[0].extractor} "
                f"({other[0].extractor_sha256[:12]}), the model knows vectors of {extractor} ({sha256[:12]}); enrol "
                "them again in another folder"
            )
        self._people = {p.name: p for p in sorted(found, key=lambda p: (p.created, p.name))}

    def listed(self) -> list[KnownVoice]:
        """Return all people in the order of their enrolment."""
        with self._lock:
            return list(self._people.values())

    def put(self, name: str, vector: np.ndarray) -> tuple[KnownVoice, bool]:
        """Enrol a person, or replace their vector; return the person and whether the name is new.

        Raises:
            ConfigError: as many people are enrolled as may be.
            StorageError: the file cannot be written.
        """
        person = KnownVoice(name, self._extractor, self._sha256, int(time.time()), tuple(map(float, vector)))
        with self._lock:
            new = name not in self._people
            if new and len(self._people) >= self._most:
                raise ConfigError(f"{self._most} people are enrolled, as many as this server takes; delete one first")
            with atomic_file(self.path(name), wait=True) as file:
                file.write(f"{json.dumps(asdict(person), ensure_ascii=False)}\n".encode())
            self._people[name] = person
        return person, new

    def delete(self, name: str) -> bool:
        """Remove a person and their audio; return whether the name was enrolled."""
        with self._lock:
            if self._people.pop(name, None) is None:
                return False
            path = self.path(name)
            for old in (path, *self.audio_paths(name)):
                old.unlink(missing_ok=True)
        return True

    def enrolled(self, names: list[str] | None = None) -> Enrolled:
        """Return vectors of these people, or of all.

        Raises:
            SpeakerError: a name is not enrolled.
        """
        with self._lock:
            chosen = list(self._people) if names is None else names
            if missing := [n for n in chosen if n not in self._people]:
                raise SpeakerError(f"not enrolled: {', '.join(missing)}; PUT /v1/speakers/NAME, or send a reference")
            vectors = [self._people[n].vector for n in chosen]
        return Enrolled(tuple(chosen), np.array(vectors, np.float32)) if chosen else NO_ENROLMENT

    def path(self, name: str) -> Path:
        """Return the file of a person."""
        return self._folder / f"{hashlib.sha256(name.encode()).hexdigest()[:24]}{SUFFIX}"

    def audio_paths(self, name: str) -> list[Path]:
        """Return the stored clips of a person."""
        return sorted(self._folder.glob(f"{self.path(name).name.removesuffix(SUFFIX)}-*.flac"))

    def store_audio(self, name: str, clips: list[Path]) -> None:
        """Store clips of a person as 16 kHz FLAC in place of earlier ones.

        Raises:
            AudioError: a clip cannot be read.
            StorageError: a file cannot be written.
        """
        import soundfile

        from pipeline.transcribe.audio_stream import blocks
        from shards.sample import SAMPLE_RATE

        stem = self.path(name).name.removesuffix(SUFFIX)
        new = [self._folder / f"{stem}-{i}.flac" for i in range(len(clips))]
        for path, clip in zip(new, clips, strict=True):
            with (
                atomic_file(path, wait=True) as whole,
                soundfile.SoundFile(whole, "w", SAMPLE_RATE, 1, "PCM_16", format="FLAC") as file,
            ):
                for block in blocks(clip):
                    file.write(block)
        for old in set(self.audio_paths(name)).difference(new):
            old.unlink(missing_ok=True)


def _read(path: Path) -> KnownVoice:
    try:
        row: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        vector = tuple(float(x) for x in row["vector"])
        found = KnownVoice(
            str(row["name"]), str(row["extractor"]), str(row["extractor_sha256"]), int(row["created"]), vector
        )
    except (ValueError, KeyError, TypeError) as e:
        raise SpeakerError(f"{path} is damaged ({e}): delete it, and enrol the person again") from e
    if not vector or not np.isfinite(vector).all() or abs(float(np.linalg.norm(vector)) - 1) > 1e-3:
        raise SpeakerError(f"{path} is damaged (no vector of unit norm): delete it, and enrol the person again")
    return found
