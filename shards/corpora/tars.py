"""Tars of utterances: WeNet's (``KEY.txt``, ``KEY.wav``) and WebDataset's (``KEY.mp3``, ``KEY.json``, as Emilia has).

ROOT is a tar or a folder of them, plain or compressed. A tar member has no path that a manifest could name, so the
audio is written once more, as ``OUT/audio/TAR/KEY.flac`` (16 kHz mono, 16 bit), and used again by later runs until the
tar's size or time of change is another. A json gives ``text`` and, where they are there, ``speaker`` and ``language``.
Emilia's ``speaker`` is a cluster within a source and no identity: use
``--session-speakers``, then each source (the key up to its last ``_W``) is a session. Gives one manifest, ``all``.
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
from shards.manifests.prepared import Prepared, PrepareOptions
from shards.manifests.transcribed_sessions import RawSegment, TranscribedSession, TranscribedSessions, corpus_name
from shards.sound.audio import encode_flac, load
from shards.storage.local import LocalStorage

_TARS = (".tar", ".tar.gz", ".tgz")
_STAMP = "made-from"


class _Strict(tarfile.TarInfo):
    """tarfile takes a damaged header, and an end without the end mark, for the end of the archive."""

    @classmethod
    def fromtarfile(cls, archive: tarfile.TarFile) -> Self:
        """The next member."""
        try:
            return super().fromtarfile(archive)
        except tarfile.EOFHeaderError:  # type: ignore[attr-defined]  # the end mark
            raise
        except tarfile.HeaderError as error:
            raise tarfile.ReadError(f"{error} at byte {archive.offset}") from error


def prepare(root: Path, out: Path, options: PrepareOptions) -> list[Prepared]:
    """One manifest of all tars."""
    tars = [root] if root.is_file() else sorted(p for p in root.rglob("*") if p.name.endswith(_TARS))
    if not tars:
        raise corpus_not_found(root, "tar", f"files ending in {', '.join(_TARS)}")
    manifest = TranscribedSessions(corpus_name(root, options), "all", [], options)
    manifest.sessions = _sessions(root, tars, out / "audio", manifest.audit)
    return [manifest.prepared("all")]


@dataclass
class _Parts:
    """What a tar holds under one key."""

    audio: bytes | None = None
    suffix: str = ""
    text: str | None = None
    meta: dict[str, object] = field(default_factory=dict)

    @property
    def whole(self) -> bool:
        return self.audio is not None and (self.text is not None or bool(self.meta))


def _sessions(root: Path, tars: list[Path], folder: Path, audit: Audit) -> Iterator[TranscribedSession]:
    for path in tqdm(tars, desc="tars", unit="tar", disable=None):
        below = Path() if path == root else path.parent.relative_to(root)  # tars of one name in two folders
        place = LocalStorage(folder / below / path.name.partition(".")[0])
        try:
            _claim(place, path)
        except OSError as error:
            audit.skip("tar that cannot be read to its end", f"{path}: {error}")
            continue
        waiting: dict[str, _Parts] = {}  # the two members of a key follow each other, in either order
        try:
            for key, parts in _read(path, waiting, audit):
                session = _session(key, parts, place, audit)
                if session is not None:
                    yield session
        except (tarfile.TarError, EOFError, OSError) as error:
            audit.skip("tar that cannot be read to its end", f"{path}: {error}")
        for key, parts in waiting.items():
            audit.skip("text without audio" if parts.audio is None else "audio without a text", f"{path}: {key}")


def _claim(place: LocalStorage, path: Path) -> None:
    """Make the folder this tar's: audio of another one, or of this one before it changed, goes."""
    stat = path.stat()
    mark = json.dumps([path.name, stat.st_size, stat.st_mtime_ns]).encode()
    if not place.exists(_STAMP) or place.read(_STAMP) != mark:
        for left in place.root.glob("*.flac"):
            left.unlink()
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
                    audit.skip("text or json that cannot be read", f"{path}: {member.name}: {error}")
                    waiting.pop(key)
                    continue
            if parts.whole:
                yield key, waiting.pop(key)


def _describe(parts: _Parts, suffix: str, data: bytes) -> None:
    text = data.decode("utf-8-sig")
    if suffix == "txt":
        parts.text = text
        return
    meta = json.loads(text)
    if not isinstance(meta, dict) or not isinstance(meta.get("text"), str):
        raise ValueError("no object with a text")
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
                audit.skip("audio that cannot be decoded", f"{key}: {error}")
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
