"""Tars of utterances: WeNet's (``KEY.txt``, ``KEY.wav``) and WebDataset's (``KEY.mp3``, ``KEY.json``, such as Emilia).

ROOT is a tar or a folder of tars, plain or compressed. A manifest cannot refer to tar members, so the audio is copied
to ``OUT/audio/TAR/KEY.flac`` (16 kHz mono, 16 bit) and reused by later runs until the tar's size or modification time
changes. A json member has ``text`` and optionally ``speaker`` and ``language``. Emilia's ``speaker`` is a cluster
within a source, not an identity: use ``--session-speakers``, then each source (the key up to its last ``_W``) is a
session. One manifest, ``all``.
"""

from __future__ import annotations

import json
import re
import tarfile
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Self

from tqdm import tqdm

from shards.errors import AudioError
from shards.manifests.audio_files import SUFFIXES
from shards.manifests.audit import Audit
from shards.manifests.corpus_source import corpus_not_found
from shards.manifests.prepare_types import Prepared, PrepareOptions
from shards.manifests.transcribed_sessions import RawSegment, TranscribedSession, TranscribedSessions, corpus_name
from shards.sound.audio import encode_flac, load
from shards.storage.local import LocalStorage

_TARS = (".tar", ".tar.gz", ".tgz")
_STAMP = "made-from"


class _Strict(tarfile.TarInfo):
    """Raise for a damaged header or a missing end mark, which tarfile treats as the end of the archive."""

    @classmethod
    def fromtarfile(cls, archive: tarfile.TarFile) -> Self:
        """Read the header of the next member."""
        try:
            return super().fromtarfile(archive)
        except tarfile.EOFHeaderError:  # type: ignore[attr-defined]  # the regular end mark
            raise
        except tarfile.HeaderError as error:
            raise tarfile.ReadError(f"{error} at byte {archive.offset}") from error


def prepare(root: Path, out: Path, options: PrepareOptions) -> list[Prepared]:
    """Return one manifest of all tars."""
    tars = [root] if root.is_file() else sorted(p for p in root.rglob("*") if p.name.endswith(_TARS))
    if not tars:
        raise corpus_not_found(root, "tar", f"files ending in {', '.join(_TARS)}")
    manifest = TranscribedSessions(corpus_name(root, options), "all", [], options)
    manifest.sessions = _sessions(root, tars, out / "audio", manifest.audit)
    return [manifest.prepared("all")]


@dataclass
class _Parts:
    """The members of a tar with the same key."""

    audio: bytes | None = None
    suffix: str = ""
    text: str | None = None
    meta: dict[str, object] = field(default_factory=dict)

    @property
    def complete(self) -> bool:
        return self.audio is not None and (self.text is not None or bool(self.meta))


def _sessions(root: Path, tars: list[Path], folder: Path, audit: Audit) -> Iterator[TranscribedSession]:
    for path in tqdm(tars, desc="tars", unit="tar", disable=None):
        below = Path() if path == root else path.parent.relative_to(root)  # tars in two folders may have the same name
        place = LocalStorage(folder / below / path.name.partition(".")[0])
        try:
            _claim(place, path)
        except OSError as error:
            audit.skip("truncated or damaged tar", f"{path}: {error}")
            continue
        waiting: dict[str, _Parts] = {}  # keys of which one member has been read; members come in either order
        try:
            for key, parts in _read(path, waiting, audit):
                session = _session(key, parts, place, audit)
                if session is not None:
                    yield session
        except (tarfile.TarError, EOFError, OSError) as error:
            audit.skip("truncated or damaged tar", f"{path}: {error}")
        for key, parts in waiting.items():
            audit.skip("text without audio" if parts.audio is None else "audio without text", f"{path}: {key}")


def _claim(place: LocalStorage, path: Path) -> None:
    """Assign the folder to this tar: delete audio of another tar or of an earlier version."""
    stat = path.stat()
    mark = json.dumps([path.name, stat.st_size, stat.st_mtime_ns]).encode()
    if not place.exists(_STAMP) or place.read(_STAMP) != mark:
        for stale in place.root.glob("*.flac"):
            stale.unlink()
        place.write_atomic(_STAMP, mark)


def _read(path: Path, waiting: dict[str, _Parts], audit: Audit) -> Iterator[tuple[str, _Parts]]:
    with tarfile.open(path, "r|*", tarinfo=_Strict) as archive:
        for member in archive:
            name = PurePosixPath(member.name)
            key, dot, suffix = name.name.partition(".")
            file = archive.extractfile(member) if member.isfile() and key and dot else None
            if file is None:
                continue
            parts = waiting.setdefault(key, _Parts())
            data = file.read()
            if f".{suffix.lower()}" in SUFFIXES:
                parts.audio, parts.suffix = data, f".{suffix.lower()}"
            elif suffix in ("txt", "json"):
                try:
                    _describe(parts, suffix, data)
                except ValueError as error:
                    audit.skip("invalid txt or json member", f"{path}: {member.name}: {error}")
                    waiting.pop(key)
                    continue
            if parts.complete:
                yield key, waiting.pop(key)


def _describe(parts: _Parts, suffix: str, data: bytes) -> None:
    text = data.decode("utf-8-sig")
    if suffix == "txt":
        parts.text = text
        return
    meta = json.loads(text)
    if not isinstance(meta, dict) or not isinstance(meta.get("text"), str):
        raise ValueError('not a JSON object with "text"')
    parts.meta = meta


def _session(key: str, parts: _Parts, place: LocalStorage, audit: Audit) -> TranscribedSession | None:
    assert parts.audio is not None
    name = f"{key}.flac"
    if not place.exists(name):
        with tempfile.NamedTemporaryFile(suffix=parts.suffix) as file:
            file.write(parts.audio)
            file.flush()
            try:
                place.write_atomic(name, encode_flac(load(file.name)))
            except AudioError as error:
                audit.skip("undecodable audio", f"{key}: {error}")
                return None
    text = parts.text if parts.text is not None else str(parts.meta["text"])
    speaker, language = parts.meta.get("speaker"), parts.meta.get("language")
    return TranscribedSession(
        key=key,
        audio=place.root / name,
        segments=(RawSegment(None if speaker is None else str(speaker), 0.0, None, text),),
        session=re.sub(r"_W\d+$", "", key),
        language=None if language is None else str(language),
    )
