"""JSON Lines: this project's form for in-house data (docs/adding-a-corpus.md), and NeMo manifests.

ROOT is a file, or a folder of ``*.jsonl`` files of any size, also compressed (``.gz``, ``.bz2``, ``.xz``); each file
becomes the manifest of its name. A line is one span of audio; fields in brackets are optional::

    {"audio": "a/b.wav", "segments": [{"speaker": "ann", "start": 0.5, "end": 2.25, "text": "hello", ["person": …]}, …],
     ["key": …, "session": …, "start": 0.0, "duration": …, "channel": 0, "language": "en"]}
    {"audio_filepath": "a/b.wav", "text": "hello", ["speaker": "ann", "offset": 0.0, "duration": …, "language": "en"]}

Paths are relative to the file's folder (or ``--audio``); times are seconds from ``start``. The second form, NeMo's, is
one utterance, whose session is its path; both forms may call the language ``lang``. Lines and segments that are not of
the form are skipped and counted, and so are keys that the form does not have. The default of ``session`` is the stem
of the audio file, which must then be unique. The default of ``key`` is made from path and start; where two rows would
have the same, the later one's names suffix, channel and duration too.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from shards.errors import DataError, ManifestError
from shards.manifests.audit import Audit
from shards.manifests.corpus_source import corpus_not_found
from shards.manifests.foreign_rows import Channel, Name, OptionalSeconds, Row, Seconds, Text, parse_row
from shards.manifests.foreign_rows import Path as AudioPath
from shards.manifests.keys import HashSet
from shards.manifests.prepare_types import Prepared, PrepareOptions
from shards.manifests.text_files import COMPRESSED, read_lines
from shards.manifests.text_policy import is_encodable
from shards.manifests.transcribed_sessions import RawSegment, TranscribedSession, TranscribedSessions, corpus_name
from shards.storage.sources import joined

_ENDS = (".jsonl", *(f".jsonl{end}" for end in COMPRESSED))


class _Own(Row):
    """A line of this project's form."""

    audio: AudioPath
    segments: list[Any]  # each checked as a row of its own
    key: Name = None
    session: Name = None
    start: OptionalSeconds = None
    duration: OptionalSeconds = None
    channel: Channel = None
    language: Name = None
    lang: Name = None


class _OwnSegment(Row):
    speaker: Name = None
    start: Seconds
    end: Seconds
    text: Text
    person: Name = None


class _Nemo(Row):
    """A line of a NeMo manifest."""

    audio_filepath: AudioPath
    text: Text
    speaker: Name = None
    offset: OptionalSeconds = None
    duration: OptionalSeconds = None
    language: Name = None
    lang: Name = None


def prepare(root: Path, out: Path, options: PrepareOptions) -> list[Prepared]:
    """Return a manifest per file."""
    files = [root] if root.is_file() else sorted(p for p in root.glob("*") if p.name.endswith(_ENDS))
    if not files:
        raise corpus_not_found(
            root, "JSONL manifest", "a .jsonl file, plain or compressed (.gz, .bz2, .xz), or a folder of them"
        )
    found = []
    origin: dict[str, Path] = {}  # manifest → the file it comes from
    for path in files:
        name = (path.with_suffix("") if path.suffix in COMPRESSED else path).name.removesuffix(".jsonl")
        if origin.setdefault(name, path) != path:
            raise DataError(f"{origin[name]} and {path} would both become the manifest {name!r}; move one away")
        manifest = TranscribedSessions(corpus_name(root, options), name, [], options)
        untranscribed = name in options.untranscribed
        manifest.sessions = _sessions(path, options.audio or path.parent, manifest.audit, untranscribed)
        found.append(manifest.prepared(name))
    return found


def _sessions(path: Path, audio: Path, audit: Audit, untranscribed: bool) -> Iterator[TranscribedSession]:
    sessions, files = HashSet(), HashSet()  # named by default, and the audio files they were named after
    for number, line in enumerate(read_lines(path), 1):
        if not line.strip():
            continue
        where = f"{path}:{number}"
        if not is_encodable(line):
            audit.skip("invalid line", f"{where}: not UTF-8; convert it, for example by iconv")
            continue
        try:
            row = json.loads(line)
            nemo = isinstance(row, dict) and "audio_filepath" in row
            if untranscribed:
                _add_texts(row)
            session = _nemo(row, audio, audit, where) if nemo else _own(row, audio, audit, where)
        except ManifestError as error:
            audit.skip("invalid line", str(error))
            continue
        except (ValueError, RecursionError) as error:
            audit.skip("invalid line", f"{where}: not JSON ({error})")
            continue
        if not nemo and not row.get("session"):
            new = sessions.add(session.session)
            if files.add(_key(row["audio"], 0.0)) and not new:
                raise DataError(
                    f"{where}: {_first_of_stem(path, session.session)} and {row['audio']} would both be session "
                    f'{session.session}; add "session" to the lines'
                )
        yield session


def _add_texts(row: object) -> None:
    """Add empty texts where a row of either form has none."""
    if isinstance(row, dict):
        segments = row.get("segments")
        for part in segments if isinstance(segments, list) else [row]:
            if isinstance(part, dict):
                part.setdefault("text", "")


def _first_of_stem(path: Path, stem: str) -> str:
    """Return the first audio file of a manifest with this stem."""
    for line in read_lines(path):
        with contextlib.suppress(ValueError, KeyError, TypeError, AttributeError, RecursionError):
            row = json.loads(line)
            if Path(row["audio"]).stem == stem and not row.get("session"):
                return str(row["audio"])
    return "another file"


def _own(value: object, audio: Path, audit: Audit, where: str) -> TranscribedSession:
    if isinstance(value, dict) and "segments" not in value:
        raise ManifestError(f"{where}: no segments; a line of one utterance names its file audio_filepath, not audio")
    row = parse_row(_Own, value, audit, where)
    segments = []
    for number, given in enumerate(row.segments, 1):
        try:
            s = parse_row(_OwnSegment, given, audit, f"{where}, segment {number}")
            segments.append(RawSegment(s.speaker, s.start, s.end, s.text, s.person))
        except ManifestError as error:
            audit.skip("invalid segment", str(error))
    start = row.start or 0.0
    return TranscribedSession(
        key=row.key or _key(row.audio, start),
        audio=joined(audio, row.audio),
        segments=tuple(segments),
        session=row.session or Path(row.audio).stem,
        start=start,
        duration=row.duration,
        channel=row.channel,
        language=row.language or row.lang,
        origin="" if row.key else _origin(row.audio, start, row.duration, row.channel),
    )


def _nemo(value: object, audio: Path, audit: Audit, where: str) -> TranscribedSession:
    row = parse_row(_Nemo, value, audit, where)
    start = row.offset or 0.0
    return TranscribedSession(
        key=_key(row.audio_filepath, start),
        audio=joined(audio, row.audio_filepath),
        segments=(RawSegment(row.speaker, 0.0, row.duration, row.text),),  # a shorter file cuts it: counted
        session=_key(row.audio_filepath, 0.0),
        start=start,
        duration=row.duration,
        language=row.language or row.lang,
        origin=_origin(row.audio_filepath, start, row.duration, None),
    )


def _key(audio: str, start: float) -> str:
    """Build a key from the path, so that files of one name in two folders differ."""
    stem = str(Path(audio).with_suffix("")).strip("/")
    return f"{stem}-{round(start * 1000):09d}" if start else stem


def _origin(audio: str, start: float, duration: float | None, channel: int | None) -> str:
    """Name a span of a channel of a file."""
    parts = [audio.strip("/")]
    parts += [f"{round(start * 1000):09d}"] if start else []
    parts += [f"{round(duration * 1000)}ms"] if duration is not None else []
    parts += [f"channel{channel}"] if channel is not None else []
    return "-".join(parts)
