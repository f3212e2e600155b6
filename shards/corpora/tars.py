"""Tars of utterances: WeNet's (``KEY.txt``, ``KEY.wav``) and WebDataset's (``KEY.mp3``, ``KEY.json``, such as Emilia).

ROOT is a tar or a folder of tars, plain or compressed by gzip, bzip2 or xz; archives of other kinds are counted. A
member's name is split at its last suffix, which must be that of audio, ``txt`` or ``json``: what precedes it, with the
folder, names the sample, and other members are counted. A second member of a kind is an error. The recording's key is
the name without the folder, or with tar and folder if another sample has that key.

A manifest cannot refer to tar members, so the audio is copied to ``OUT/audio/TAR/KEY.flac`` (16 kHz mono, 16 bit) and
reused by later runs until the tar's size or modification time changes. A json member has ``text`` (unless there is a
``txt``) and optionally ``speaker`` and ``language``. Emilia's ``speaker`` is a cluster within a source, not an
identity: use ``--session-speakers``, then each source (the key up to its last ``_W``) is a session. One manifest,
``all``.
"""

from __future__ import annotations

import hashlib
import json
import re
import tarfile
import tempfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Self

from shards.errors import AudioError, DataError, ManifestError
from shards.manifests.audio_files import SUFFIXES
from shards.manifests.audit import Audit
from shards.manifests.corpus_source import corpus_not_found
from shards.manifests.foreign_rows import Name, OptionalText, Row, parse_row, text_of
from shards.manifests.keys import LONGEST_KEY, HashSet, plain_key
from shards.manifests.prepare_types import Prepared, PrepareOptions
from shards.manifests.transcribed_sessions import RawSegment, TranscribedSession, TranscribedSessions, corpus_name
from shards.sound.audio import encode_flac, load
from shards.sound.mixing import OUT_OF_PHASE
from shards.storage.folders import files_below
from shards.storage.local import LocalStorage
from shards.workers import progress

_TARS = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tbz", ".tar.xz", ".txz")
_OTHER_ARCHIVES = (".tar.zst", ".tzst", ".tar.lz4", ".tar.lz", ".tar.z", ".zip", ".7z", ".rar")
_STAMP = "made-from"
_MEMBERS = 2  # incremented when the audio of a tar gets other names


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
    files = [root] if root.is_file() else files_below(root)
    tars = [p for p in files if root.is_file() or p.name.lower().endswith(_TARS)]
    if not tars:
        raise corpus_not_found(root, "tar", f"files ending in {', '.join(_TARS)}")
    manifest = TranscribedSessions(corpus_name(root, options), "all", [], options)
    for path in files:
        if path not in tars[:1] and path.name.lower().endswith(_OTHER_ARCHIVES):
            manifest.audit.skip("archive of a kind that is not read", str(path))
    manifest.sessions = _sessions(root, tars, out / "audio", manifest.audit)
    return [manifest.prepared("all")]


class _Meta(Row):
    """A json member; the other keys are Emilia's."""

    unused = frozenset({"id", "_id", "wav", "mp3", "duration", "dnsmos", "phone_count"})
    text: OptionalText = None  # may be in a txt member
    speaker: Name = None
    language: Name = None
    lang: Name = None


@dataclass
class _Parts:
    """The members of a sample."""

    audio: bytes | None = None
    suffix: str = ""
    text: str | None = None
    meta: _Meta = field(default_factory=_Meta)
    damaged: bool = False  # a member is damaged, and counted

    @property
    def words(self) -> str | None:
        return self.meta.text if self.text is None else self.text

    @property
    def complete(self) -> bool:
        return self.audio is not None and self.words is not None and not self.damaged


def _sessions(root: Path, tars: list[Path], folder: Path, audit: Audit) -> Iterator[TranscribedSession]:
    shared = Counter((p.parent, _stem(p)) for p in tars)  # w.tar and w.tar.gz may be two tars
    sessions = _Sessions()
    for path in progress(tars, "tars", unit="tar"):
        below = Path() if path == root else path.parent.relative_to(root)  # tars in two folders may have the same name
        name = below / (_stem(path) if shared[path.parent, _stem(path)] == 1 else path.name)
        place = LocalStorage(folder / name)
        try:
            _claim(place, path)
        except OSError as error:
            audit.skip("truncated or damaged tar", f"{path}: {error}")
            continue
        for key, parts in _samples(path, audit):
            audio = _audio(key, parts, place, audit)
            if audio is not None:
                yield _session(f"{name.as_posix()}/{key}", PurePosixPath(key), parts, audio, sessions)


def _stem(path: Path) -> str:
    end = next((e for e in sorted(_TARS, key=len, reverse=True) if path.name.lower().endswith(e)), "")
    return path.name[: len(path.name) - len(end)]


def _claim(place: LocalStorage, path: Path) -> None:
    """Assign the folder to this tar: delete audio of another tar or of an earlier version."""
    stat = path.stat()
    mark = json.dumps([path.name, stat.st_size, stat.st_mtime_ns, _MEMBERS]).encode()
    if not place.exists(_STAMP) or place.read(_STAMP) != mark:
        for stale in place.root.glob("*.flac"):
            stale.unlink()
        place.write_atomic(_STAMP, mark)


def _samples(path: Path, audit: Audit) -> Iterator[tuple[str, _Parts]]:
    """Yield (name with folder, parts) of the complete samples of a tar, and count all others.

    A sample ends with the next one's first member. Members of one sample that are not in a row are joined too, if audio
    or text is among the later ones.

    Raises:
        DataError: a second member of a kind.
    """
    waiting: dict[str, _Parts] = {}
    done, last = HashSet(), ""  # done: samples, and their members
    try:
        for member, key, kind, data in _members(path, audit):
            if key != last and last in waiting and waiting[last].complete:
                done.add(last)
                yield last, waiting.pop(last)
            last = key
            if not done.add(f"{key}\n{kind}"):
                raise DataError(f"{path}: {member}: a second {kind} of the sample {key}; rename or remove one of them")
            if key in done:
                audit.skip("member apart from its sample", f"{path}: {member}")
                continue
            parts = waiting.setdefault(key, _Parts())
            try:
                _add(parts, kind, member, data, audit, path)
            except (ManifestError, ValueError, RecursionError) as error:
                audit.skip("invalid txt or json member", f"{path}: {member}: {error}")
                parts.damaged = True
    except (tarfile.TarError, EOFError, OSError) as error:
        audit.skip("truncated or damaged tar", f"{path}: {error}")
    if last in waiting and waiting[last].complete:
        yield last, waiting.pop(last)
    for key, parts in waiting.items():
        if not parts.damaged:
            audit.skip("text without audio" if parts.audio is None else "audio without text", f"{path}: {key}")


def _members(path: Path, audit: Audit) -> Iterator[tuple[str, str, str, bytes]]:
    """Yield (member, sample, kind, content) of the members that are read; others are counted."""
    with tarfile.open(path, "r|*", tarinfo=_Strict) as archive:
        for member in archive:
            if member.isdir():
                continue
            name = PurePosixPath(member.name.lstrip("/"))
            suffix = name.suffix.lower()
            kind = "audio" if suffix in SUFFIXES else suffix.lstrip(".")
            file = archive.extractfile(member) if member.isreg() else None
            if file is None or kind not in ("audio", "txt", "json") or name.name.startswith("."):
                audit.skip("member of a kind that is not read", f"{path}: {member.name}")
            else:
                yield member.name, str(name.with_suffix("")), kind, file.read()


def _add(parts: _Parts, kind: str, member: str, data: bytes, audit: Audit, path: Path) -> None:
    """Add a member. Raises ManifestError, ValueError or RecursionError for text or json that is not of the form."""
    if kind == "audio":
        parts.audio, parts.suffix = data, PurePosixPath(member).suffix.lower()
    elif kind == "txt":
        parts.text = text_of(data.decode("utf-8-sig"))
    else:
        parts.meta = parse_row(_Meta, json.loads(data.decode("utf-8-sig")), audit, f"{path}: {member}")


def _audio(key: str, parts: _Parts, place: LocalStorage, audit: Audit) -> Path | None:
    """Return the file of a sample's audio, written if it is missing; None if it cannot be decoded."""
    assert parts.audio is not None
    if len(PurePosixPath(key).name.encode(errors="surrogateescape")) > LONGEST_KEY:
        audit.skip(f"recording key of more than {LONGEST_KEY} bytes", key[:80])
        return None
    name = f"{key}.flac"
    if "/" in key:  # no folders, since those of two tars could be one
        digest = hashlib.blake2b(key.encode(errors="surrogateescape"), digest_size=8).hexdigest()
        name = f"{plain_key(key)[:40]}-{digest}.flac"
    if not place.exists(name):
        with tempfile.NamedTemporaryFile(suffix=parts.suffix) as file:
            file.write(parts.audio)
            file.flush()
            try:
                place.write_atomic(name, encode_flac(load(file.name, note=lambda _: audit.change(OUT_OF_PHASE, key))))
            except AudioError as error:
                audit.skip("undecodable audio", f"{key}: {error}")
                return None
    return place.root / name


class _Sessions:
    """Names the session of a sample: its source, with the folder if a source in another folder has the same name."""

    def __init__(self) -> None:
        self._names, self._places = HashSet(), HashSet()

    def name(self, key: PurePosixPath) -> str:
        source = re.sub(r"_W\d+$", "", key.name)
        place = f"{key.parent}\n{source}"
        if self._names.add(source):
            self._places.add(place)
        return source if place in self._places else f"{key.parent}/{source}"


def _session(origin: str, key: PurePosixPath, parts: _Parts, audio: Path, sessions: _Sessions) -> TranscribedSession:
    return TranscribedSession(
        key=key.name,
        audio=audio,
        segments=(RawSegment(parts.meta.speaker, 0.0, None, parts.words),),
        session=sessions.name(key),
        language=parts.meta.language or parts.meta.lang,
        origin=origin,
    )
