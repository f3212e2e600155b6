"""JSON Lines: this project's form for in-house data (docs/adding-a-corpus.md), and NeMo manifests.

ROOT is a file, or a folder of ``*.jsonl`` files; each file becomes the manifest of its name. A line is one span of
audio; fields in brackets are optional::

    {"audio": "a/b.wav", "segments": [{"speaker": "ann", "start": 0.5, "end": 2.25, "text": "hello"}, …],
     ["key": …, "session": …, "start": 0.0, "duration": …, "channel": 0, "language": "en"]}
    {"audio_filepath": "a/b.wav", "text": "hello", ["speaker": "ann", "offset": 0.0, "duration": …, "lang": "en"]}

Paths are relative to the file's folder (or ``--audio``); times are seconds from ``start``. The second form, NeMo's, is
one utterance, whose session is its path. Invalid lines are skipped and counted. The default of ``session`` is the stem
of the audio file, which must then be unique.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from shards.errors import DataError
from shards.manifests.audit import Audit
from shards.manifests.corpus_source import corpus_not_found
from shards.manifests.prepare_types import Prepared, PrepareOptions
from shards.manifests.text_files import read_text
from shards.manifests.transcribed_sessions import RawSegment, TranscribedSession, TranscribedSessions, corpus_name


def prepare(root: Path, out: Path, options: PrepareOptions) -> list[Prepared]:
    """Return a manifest per file."""
    files = [root] if root.is_file() else sorted(root.glob("*.jsonl"))
    if not files:
        raise corpus_not_found(root, "JSONL manifest", "a .jsonl file, or a folder of them")
    found = []
    for path in files:
        manifest = TranscribedSessions(corpus_name(root, options), path.stem, [], options)
        manifest.sessions = _sessions(path, options.audio or path.parent, manifest.audit)
        found.append(manifest.prepared(path.stem))
    return found


def _sessions(path: Path, audio: Path, audit: Audit) -> Iterator[TranscribedSession]:
    named: dict[str, str] = {}  # session named by default → its audio file
    for number, line in enumerate(read_text(path).split("\n"), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
            session = _nemo(row, audio) if "audio_filepath" in row else _own(row, audio)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            audit.skip("invalid line", f"{path}:{number}: {type(error).__name__}: {error}")
            continue
        if "audio_filepath" not in row and not row.get("session"):
            file = str(row["audio"])
            if named.setdefault(session.session, file) != file:
                raise DataError(
                    f"{path}:{number}: {named[session.session]} and {file} would both be session {session.session}; "
                    'add "session" to the lines'
                )
        yield session


def _own(row: dict[str, Any], audio: Path) -> TranscribedSession:
    segments = tuple(
        RawSegment(_name(s.get("speaker")), float(s["start"]), float(s["end"]), str(s.get("text") or ""))
        for s in row["segments"]
    )
    path = audio / str(row["audio"])
    start = float(row.get("start", 0.0))
    key = row.get("key") or _key(row["audio"], start)
    return TranscribedSession(
        key=str(key),
        audio=path,
        segments=segments,
        session=str(row.get("session") or Path(row["audio"]).stem),
        start=start,
        duration=_number(row.get("duration")),
        channel=None if row.get("channel") is None else int(row["channel"]),
        language=_name(row.get("language")),
    )


def _nemo(row: dict[str, Any], audio: Path) -> TranscribedSession:
    start = float(row.get("offset", 0.0))
    segment = RawSegment(_name(row.get("speaker")), 0.0, None, str(row["text"]))
    return TranscribedSession(
        key=_key(row["audio_filepath"], start),
        audio=audio / str(row["audio_filepath"]),
        segments=(segment,),
        session=_key(row["audio_filepath"], 0.0),
        start=start,
        duration=_number(row.get("duration")),
        language=_name(row.get("lang")),
    )


def _key(audio: str, start: float) -> str:
    """Build a key from the path, so that files of one name in two folders differ."""
    stem = str(Path(audio).with_suffix("")).strip("/")
    return f"{stem}-{round(start * 1000):09d}" if start else stem


def _name(value: object) -> str | None:
    return None if value is None or value == "" else str(value)


def _number(value: object) -> float | None:
    return None if value is None else float(value)  # type: ignore[arg-type]
