"""SegLST, STM, RTTM or TextGrid files with audio.

ROOT contains ``*.json`` or ``*.seglst`` (SegLST), ``*.stm``, ``*.rttm`` or ``*.TextGrid`` files (one session per
TextGrid, one tier per speaker), in folders of any depth. Audio is found by the session's name under ROOT or
``--audio``; a session in two folders is an error, since two meetings would be merged. A session whose lines name
several channels, as of a call, is the mean of all channels of its file; otherwise the first channel is read. If a
session is in files of several formats, the first of this order is used, so that words win over turns without text.
Lines that are not of the form, and time that STM excludes from scoring, are counted. Labels of STM (``<o,f0,male>``)
give genders. RTTM alone, or SegLST without ``words``, gives recordings without words, for statistics of turn taking or
diarization. One manifest, ``all``.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

from shards.errors import DataError, ManifestError
from shards.manifests.audio_files import audio_by_stem
from shards.manifests.audit import Audit
from shards.manifests.corpus_source import corpus_not_found
from shards.manifests.foreign_rows import Identifier, Name, OptionalText, Row, Seconds, parse_row
from shards.manifests.nist_lines import NistLine, parse_rttm, parse_stm
from shards.manifests.prepare_types import Prepared, PrepareOptions
from shards.manifests.text_files import COMPRESSED, read_text
from shards.manifests.textgrid import NON_SPEAKER_TIERS, read_textgrid
from shards.manifests.transcribed_sessions import RawSegment, TranscribedSession, TranscribedSessions, corpus_name
from shards.storage.folders import files_below

Found = Iterator[tuple[str, RawSegment]]  # (session, segment)


class _Segment(Row):
    """An object of SegLST."""

    session_id: Identifier
    speaker: Name = None
    start_time: Seconds
    end_time: Seconds
    words: OptionalText = None  # absent: turns only; null is not of the form


def prepare(root: Path, out: Path, options: PrepareOptions) -> list[Prepared]:
    """Return one manifest of all sessions."""
    files = [p for p in (root, *files_below(root)) if p.suffix.lower() in _READERS and p.is_file()]
    if not files:
        raise corpus_not_found(root, "transcripts", f"files ending in {', '.join(_READERS)}")
    manifest = TranscribedSessions(corpus_name(root, options), "all", [], options)
    for path in files_below(root):
        if path.suffix.lower() in COMPRESSED and path.with_suffix("").suffix.lower() in _READERS:
            manifest.audit.skip("compressed transcript: unpack it", str(path))
    manifest.sessions = _sessions(files, options.audio or (root if root.is_dir() else root.parent), manifest.audit)
    return [manifest.prepared("all")]


def _sessions(files: list[Path], audio_folder: Path, audit: Audit) -> Iterator[TranscribedSession]:
    order = list(_READERS)
    spoken: dict[str, list[RawSegment]] = {}
    owner: dict[str, Path] = {}
    for path in sorted(files, key=lambda p: (order.index(p.suffix.lower()), p)):
        try:
            found = list(_READERS[path.suffix.lower()](path, audit))
        except (ManifestError, ValueError, RecursionError) as error:
            audit.skip("unreadable transcript", f"{path}: {error}")
            continue
        for session in dict.fromkeys(session for session, _ in found):
            first = owner.setdefault(session, path)
            if first.suffix != path.suffix:
                audit.skip(f"session of {path.suffix} also in {first.suffix}", session)
            elif first.parent != path.parent:
                raise DataError(
                    f"{first} and {path}: both contain session {session}; rename one and its audio, or prepare their "
                    "folders separately"
                )
        for session, segment in found:
            if owner[session].suffix == path.suffix:
                spoken.setdefault(session, []).append(segment)
    audio = audio_by_stem(audio_folder, audit, spoken)
    for session, segments in sorted(spoken.items()):
        if session in audio:
            yield TranscribedSession(session, audio[session], tuple(segments))
        else:
            audit.skip("session without audio", session)


def _seglst(path: Path, audit: Audit) -> Found:
    """Read a SegLST file, a JSON list of objects (meeteval's reader would need another JSON library)."""
    rows = json.loads(read_text(path))
    if not isinstance(rows, list):
        raise ManifestError(f"SegLST is a list of segments, this is a {type(rows).__name__}")
    for number, row in enumerate(rows, 1):
        try:
            x = parse_row(_Segment, row, audit, f"{path}: entry {number}")
        except ManifestError as error:
            audit.skip("invalid segment", str(error))
            continue
        yield x.session_id, RawSegment(x.speaker, x.start_time, x.end_time, x.words)


def _stm(path: Path, audit: Audit) -> Found:
    for where, x in _nist(path, audit, parse_stm):
        if x.ignored:
            audit.skip("time that STM excludes from scoring", f"{where}: {x.session} {x.start:g}–{x.end:g} s")
        else:
            yield x.session, RawSegment(x.speaker, x.start, x.end, x.text, gender=x.gender, channel=x.channel)


def _rttm(path: Path, audit: Audit) -> Found:
    for _, x in _nist(path, audit, parse_rttm):
        yield x.session, RawSegment(x.speaker, x.start, x.end, None, channel=x.channel)


def _textgrid(path: Path, audit: Audit) -> Found:
    for tier in read_textgrid(path):
        if tier.name.lower() not in NON_SPEAKER_TIERS:
            for i in tier.intervals:
                if i.mark:
                    yield path.stem, RawSegment(tier.name, i.start, i.end, i.mark)


def _nist(path: Path, audit: Audit, parse: Callable[[str], NistLine | None]) -> Iterator[tuple[str, NistLine]]:
    """Yield (place, line) of STM or RTTM; comments begin with a semicolon."""
    for number, line in enumerate(read_text(path).split("\n"), 1):
        if not line.strip() or line.lstrip().startswith(";"):
            continue
        try:
            found = parse(line)
        except ManifestError as error:
            audit.skip("invalid line", f"{path}:{number}: {error}")
            continue
        if found is not None:
            yield f"{path}:{number}", found


_READERS = {".seglst": _seglst, ".json": _seglst, ".stm": _stm, ".textgrid": _textgrid, ".rttm": _rttm}
