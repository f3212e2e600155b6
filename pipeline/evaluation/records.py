"""The record of this package: SegLST's fields as a frozen dataclass, and sessions of them.

Every reader makes these and every scorer takes them, so a figure never depends on the format a hypothesis came in.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class SegLstRow:
    """One turn of one speaker; times in seconds, ``None`` where the source has none."""

    session: str
    speaker: str | None  # None: text that no speaker can be given
    text: str
    start: float | None = None
    end: float | None = None

    @property
    def timed(self) -> bool:
        """Whether both times are known."""
        return self.start is not None and self.end is not None


@dataclass(frozen=True, slots=True)
class SessionTranscript:
    """Reference and hypothesis of one session or clip, as they are scored.

    ``group`` is what the bootstrap draws: the recording, where sessions are clips of it. ``names`` are the registered
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
        """The recording that this belongs to."""
        return self.group or self.id


def in_time_order(segments: Iterable[SegLstRow]) -> list[SegLstRow]:
    """Sorted by start time where all have one, otherwise as emitted. Equal times keep their order."""
    listed = list(segments)
    if any(s.start is None for s in listed):
        return listed
    return sorted(listed, key=lambda s: s.start or 0.0)


def by_speaker(segments: Iterable[SegLstRow]) -> dict[str | None, list[SegLstRow]]:
    """Speaker → its segments, speakers by first appearance in the given order."""
    groups: dict[str | None, list[SegLstRow]] = {}
    for segment in segments:
        groups.setdefault(segment.speaker, []).append(segment)
    return groups
