"""SegLST rows, and sessions of reference and hypothesis rows.

Every reader makes these and every scorer takes them, so a figure never depends on the format of a hypothesis.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace

from pipeline.prompts import NOT_ON_ONE_LINE
from shards.errors import ScoreError

LONGEST_NAME = 64  # of a speaker before a colon
NO_NAME = "?"  # stands for the speaker of text without one
TIME_SLACK_S = 1e-6  # by so much an end may precede its start: sums of floats differ by less

_LABEL = re.compile(rf"([^:]{{1,{LONGEST_NAME}}}):(?: (.*))?")


@dataclass(frozen=True, slots=True)
class SegLstRow:
    """One turn of one speaker; times in seconds, ``None`` if the source has no times."""

    session: str
    speaker: str | None  # None: text without a speaker
    text: str
    start: float | None = None
    end: float | None = None
    gender: str | None = None  # of the speaker, "male" or "female", if the source states it
    coarse: bool = False  # the source gives starts only: the end is the next start

    @property
    def timed(self) -> bool:
        """Whether both times are known."""
        return self.start is not None and self.end is not None


@dataclass(frozen=True, slots=True)
class SessionTranscript:
    """Reference and hypothesis of one session or clip, ready to score.

    ``group`` is the unit of the bootstrap: the recording, if sessions are clips of it. ``names`` are the registered
    names in the prompt, if there was a registration; ``None`` if nothing is known of one.
    """

    id: str
    reference: tuple[SegLstRow, ...]
    hypothesis: tuple[SegLstRow, ...]
    group: str = ""
    names: tuple[str, ...] | None = None
    notes: tuple[str, ...] = field(default=())

    @property
    def unit_group(self) -> str:
        """Return the recording, else the session itself."""
        return self.group or self.id


def in_time_order(rows: Iterable[SegLstRow]) -> list[SegLstRow]:
    """Sort by start time if all rows have one, else keep the order. The sort is stable."""
    listed = list(rows)
    if any(s.start is None for s in listed):
        return listed
    return sorted(listed, key=lambda s: s.start or 0.0)


def by_speaker(rows: Iterable[SegLstRow]) -> dict[str | None, list[SegLstRow]]:
    """Group rows by speaker, speakers by first appearance in the given order."""
    groups: dict[str | None, list[SegLstRow]] = {}
    for row in rows:
        groups.setdefault(row.speaker, []).append(row)
    return groups


def by_session(rows: Iterable[SegLstRow]) -> dict[str, list[SegLstRow]]:
    """Group rows by session, sessions by first appearance."""
    groups: dict[str, list[SegLstRow]] = {}
    for row in rows:
        groups.setdefault(row.session, []).append(row)
    return groups


def checked(row: SegLstRow, where: object) -> SegLstRow:
    """Return a row that was read; an empty speaker becomes None, and an end just before the start the start.

    Raises:
        ScoreError: it ends more than :data:`TIME_SLACK_S` before its start, or a name does not fit on one line.
    """
    for what, name in (("session", row.session), ("speaker", row.speaker)):
        if name is not None and NOT_ON_ONE_LINE.search(name):
            raise ScoreError(f"{where}: {what} {name!r} holds a line break or a control character; rename it")
    if row.speaker is not None and not row.speaker.strip():
        row = replace(row, speaker=None)
    if row.start is not None and row.end is not None and row.end < row.start:
        if row.start - row.end > TIME_SLACK_S:
            raise ScoreError(
                f"{where}: session {row.session}, speaker {row.speaker}: ends at {row.end} s before its start "
                f"{row.start} s"
            )
        row = replace(row, end=row.start)
    return row


def times_of(row: SegLstRow, kind: str) -> tuple[float, float]:
    """Return start and end in seconds, for a format that needs both.

    Raises:
        ScoreError: the row has no times; names the format.
    """
    if row.start is None or row.end is None:
        raise ScoreError(
            f"session {row.session}: {kind} needs times, {row.speaker}: {row.text[:20]!r} has no times; "
            "write SegLST, JSON or TSV"
        )
    return row.start, row.end


def one_line(text: str | None) -> str:
    """Collapse white space to single spaces."""
    return " ".join((text or "").split())


def labelled(speaker: str | None, text: str) -> str:
    """Return a turn as one line, ``NAME: text``; :func:`split_label` reads it.

    Text without a speaker gets ``?:`` only if it would be read as a name and a text.
    """
    line = one_line(text)
    if one_line(speaker):
        return f"{one_line(speaker)}: {line}"
    return line if split_label(line) == (None, line) else f"{NO_NAME}: {line}"


def split_label(line: str) -> tuple[str | None, str]:
    """Return speaker and text of a line ``NAME: text``; all of it is text without such a name."""
    match = _LABEL.fullmatch(line)
    if match is None:
        return None, line
    return None if match[1].strip() == NO_NAME else match[1].strip(), (match[2] or "").strip()


def check_distinct(names: Iterable[str | None], written: Callable[[str | None], str], kind: str) -> None:
    """Refuse names that a format would write as the same text; no name and an empty one are the same name.

    Raises:
        ScoreError: two names would be equal; names both and the format.
    """
    found: dict[str, str] = {}
    for name in dict.fromkeys(name or "" for name in names):
        text = written(name)
        if text in found:
            raise ScoreError(
                f"{kind} would write the names {found[text]!r} and {name!r} as {text!r}; rename one, or write SegLST"
            )
        found[text] = name


def check_distinct_speakers(rows: Iterable[SegLstRow], written: Callable[[str | None], str], kind: str) -> None:
    """Refuse speakers of one session that a format would write as the same text.

    Raises:
        ScoreError: two names would be equal; names both, the session and the format.
    """
    for session, found in by_session(rows).items():
        check_distinct((r.speaker for r in found), written, f"{kind}, session {session},")
