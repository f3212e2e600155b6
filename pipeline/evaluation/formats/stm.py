"""NIST STM: ``SESSION CHANNEL SPEAKER START END [<label>] WORDS``. meeteval writes its lines."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

from pipeline.evaluation.files import numbered_lines
from pipeline.evaluation.records import SegLstRow, check_distinct, check_distinct_speakers, one_line, times_of
from shards.errors import ManifestError, ScoreError
from shards.manifests.foreign_rows import NOT_AVAILABLE
from shards.manifests.nist_lines import has_label, is_ignored, parse_stm

READS = (".stm",)
WRITES = ".stm"
logger = logging.getLogger(__name__)


def read(path: Path) -> list[SegLstRow]:
    """Read a file.

    Raises:
        ScoreError: a line is not STM, or marks time to be ignored; names the line.
    """
    out = []
    for number, line in numbered_lines(path):
        try:
            x = parse_stm(line)
        except ManifestError as e:
            raise ScoreError(f"{path}:{number}: {e}") from e
        if x.ignored:
            raise ScoreError(f"{path}:{number}: time to be ignored is not supported; cut it out of both sides")
        out.append(SegLstRow(x.session, x.speaker, x.text, x.start, x.end, x.gender))
    return out


def dumps(rows: Sequence[SegLstRow]) -> str:
    """Return rows as STM.

    Raises:
        ScoreError: a row has no times, or would be read back as another session, speaker or text.
    """
    from meeteval.io.stm import STM, STMLine

    check_names(rows, "STM")
    lines = []
    for r in rows:
        start, end = times_of(r, "STM")
        lines.append(STMLine(name_field(r.session), 1, name_field(r.speaker), start, end, _words(r)))
    return str(STM(lines).dumps())


def check_names(rows: Sequence[SegLstRow], kind: str) -> None:
    """Refuse sessions and speakers that could not be told apart when they are read back.

    Raises:
        ScoreError: two names would be equal, a session is empty or would be a comment, or a speaker would be none.
    """
    sessions = list(dict.fromkeys(r.session for r in rows))
    check_distinct(sessions, name_field, kind)
    for session in sessions:
        if name_field(session) == NOT_AVAILABLE:
            raise ScoreError(_like_none(kind, session))
        if kind == "STM" and session.lstrip().startswith(";"):
            raise ScoreError(f"STM would read session {session!r} as a comment; rename it, or write SegLST")
    check_distinct_speakers(rows, name_field, kind)
    speakers = list(dict.fromkeys(r.speaker for r in rows if r.speaker and r.speaker.strip()))
    if unsafe := [s for s in speakers if name_field(s) == NOT_AVAILABLE]:
        raise ScoreError(_like_none(kind, unsafe[0]))


def _like_none(kind: str, name: str) -> str:
    return f"{kind} would write the names {name!r} and no name as {NOT_AVAILABLE!r}; rename it, or write SegLST"


def warn_of_names(rows: Sequence[SegLstRow], kind: str) -> None:
    """Warn of names that are written with ``_`` for their white space: read back, they are other names."""
    names = dict.fromkeys(name for r in rows for name in (r.session, r.speaker) if name and name.strip())
    if changed := [name for name in names if name_field(name) != name]:
        logger.warning(
            "%s: white space in %d names is written as _, such as %r as %r; compare with files written likewise",
            kind, len(changed), changed[0], name_field(changed[0]),
        )  # fmt: skip


def _words(row: SegLstRow) -> str:
    """Return the text of a row on one line.

    Raises:
        ScoreError: a reader would take it for something else.
    """
    text = one_line(row.text)
    if text == NOT_AVAILABLE or has_label(text) or is_ignored(text):
        raise ScoreError(f"session {row.session}: STM cannot hold the text {text[:40]!r}; write SegLST")
    return text


def name_field(name: str | None) -> str:
    """Return a name as one field: white space becomes ``_``; an empty name becomes ``<NA>``."""
    return "_".join((name or "").split()) or NOT_AVAILABLE
