"""SegLST, STM, RTTM or TextGrid files with audio.

ROOT contains ``*.json`` or ``*.seglst`` (SegLST), ``*.stm``, ``*.rttm`` or ``*.TextGrid`` files (one session per
TextGrid, one tier per speaker), in folders of any depth. Audio is found by the session's name under ROOT or
``--audio``; a session in two folders is an error, since two meetings would be merged. If a session is in files of
several formats, the first of this order is used, so that words win over turns without text. meeteval parses the lines
of STM and RTTM. RTTM alone gives recordings without words, for statistics of turn taking or diarization. One manifest,
``all``.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

from shards.errors import DataError, ManifestError
from shards.manifests.audio_files import audio_by_stem
from shards.manifests.audit import Audit
from shards.manifests.corpus_source import corpus_not_found
from shards.manifests.prepare_types import Prepared, PrepareOptions
from shards.manifests.text_files import read_text
from shards.manifests.textgrid import NON_SPEAKER_TIERS, read_textgrid
from shards.manifests.transcribed_sessions import RawSegment, TranscribedSession, TranscribedSessions, corpus_name

_LABEL = re.compile(r"^<[^<>\s]*,[^<>\s]*>\s*")  # <o,f0,male>: optional label field of NIST's STM
Found = Iterator[tuple[str, RawSegment]]  # (session, segment)


def prepare(root: Path, out: Path, options: PrepareOptions) -> list[Prepared]:
    """Return one manifest of all sessions."""
    files = [p for p in (root, *sorted(root.rglob("*"))) if p.suffix.lower() in _READERS and p.is_file()]
    if not files:
        raise corpus_not_found(root, "transcripts", f"files ending in {', '.join(_READERS)}")
    manifest = TranscribedSessions(corpus_name(root, options), "all", [], options)
    manifest.sessions = _sessions(files, options.audio or (root if root.is_dir() else root.parent), manifest.audit)
    return [manifest.prepared("all")]


def _sessions(files: list[Path], audio_folder: Path, audit: Audit) -> Iterator[TranscribedSession]:
    order = list(_READERS)
    spoken: dict[str, list[RawSegment]] = {}
    owner: dict[str, Path] = {}
    for path in sorted(files, key=lambda p: (order.index(p.suffix.lower()), p)):
        try:
            found = list(_READERS[path.suffix.lower()](path))
        except (ManifestError, ValueError, TypeError, KeyError, AssertionError, AttributeError) as error:
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
    audio = audio_by_stem(audio_folder, spoken)
    for session, segments in sorted(spoken.items()):
        if session in audio:
            yield TranscribedSession(session, audio[session], tuple(segments))
        else:
            audit.skip("session without audio", session)


def _seglst(path: Path) -> Found:
    """Read a SegLST file, a JSON list of objects (meeteval's reader would need another JSON library)."""
    for row in json.loads(read_text(path)):
        start, end = float(row["start_time"]), float(row["end_time"])
        yield str(row["session_id"]), RawSegment(str(row["speaker"]), start, end, str(row.get("words") or ""))


def _stm(path: Path) -> Found:
    from meeteval.io.stm import STMLine

    for line in _lines(path):
        x = STMLine.parse(line, parse_float=float)
        text = "" if x.transcript in ("<NA>", "ignore_time_segment_in_scoring") else _LABEL.sub("", x.transcript)
        yield x.filename, RawSegment(x.speaker_id, float(x.begin_time), float(x.end_time), text)


def _rttm(path: Path) -> Found:
    from meeteval.io.rttm import RTTMLine

    for line in _lines(path):
        if line.split()[0] == "SPEAKER":
            x = RTTMLine.parse(line, parse_float=float)
            start = float(x.begin_time)
            yield x.filename, RawSegment(x.speaker_id, start, start + float(x.duration), "")


def _textgrid(path: Path) -> Found:
    for tier in read_textgrid(path):
        if tier.name.lower() not in NON_SPEAKER_TIERS:
            for i in tier.intervals:
                if i.mark:
                    yield path.stem, RawSegment(tier.name, i.start, i.end, i.mark)


def _lines(path: Path) -> Iterator[str]:
    yield from (x for x in read_text(path).split("\n") if x.strip() and not x.lstrip().startswith(";"))


_READERS = {".seglst": _seglst, ".json": _seglst, ".stm": _stm, ".textgrid": _textgrid, ".rttm": _rttm}
