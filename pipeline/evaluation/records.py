"""SegLST rows, and sessions of reference and hypothesis rows.

Every reader makes these and every scorer takes them, so a figure never depends on the format of a hypothesis.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from shards.errors import ScoreError


@dataclass(frozen=True, slots=True)
class SegLstRow:
    """One turn of one speaker; times in seconds, ``None`` if the source has no times."""

    session: str
    speaker: str | None  # None: text without a speaker
    text: str
    start: float | None = None
    end: float | None = None

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


def check_times(row: SegLstRow, where: object) -> None:
    """Refuse a row that ends before it starts.

    Raises:
        ScoreError: it does; names ``where``, the session and the speaker.
    """
    if row.start is not None and row.end is not None and row.end < row.start:
        raise ScoreError(
            f"{where}: session {row.session}, speaker {row.speaker}: ends at {row.end} s before its start {row.start} s"
        )


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
