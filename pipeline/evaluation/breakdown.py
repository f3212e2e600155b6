"""Figures split by properties of the recordings: overlap, number of speakers, duration, language, corpus, session."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pipeline.evaluation.figure_names import named
from pipeline.evaluation.records import SessionTranscript
from pipeline.evaluation.result_tables import MODE_NAMES, Table, system
from pipeline.evaluation.scores import ScoreRow, metric_names
from pipeline.evaluation.session_scores import SessionScore, total

MANY_SPEAKERS = 8
OVERLAPS = ((0.0, "none"), (0.1, "up to 10 %"), (0.2, "10–20 %"), (0.4, "20–40 %"), (1.0, "over 40 %"))
DURATIONS = (
    (5, "up to 5 s"), (10, "5–10 s"), (20, "10–20 s"), (40, "20–40 s"), (60, "40–60 s"), (300, "1–5 min"),
    (1800, "5–30 min"), (float("inf"), "over 30 min"),
)  # fmt: skip


@dataclass(frozen=True)
class Facts:
    """Properties of one recording or clip; ``None`` where they are not known."""

    speakers: int | None
    overlap: float | None  # share of speech time with two or more speakers
    seconds: float | None
    language: str | None = None
    corpus: str | None = None
    session: str = ""


@dataclass(frozen=True)
class Measured:
    """One row of the tables with what it was summed from."""

    row: ScoreRow
    scores: tuple[SessionScore, ...]
    facts: tuple[Facts, ...]  # of the scores, in their order

    @property
    def label(self) -> str:
        """System and mode."""
        n_ov = f" {self.row['n_ov']}" if self.row["n_ov"] else ""
        return f"{system(self.row)}, {MODE_NAMES[self.row['mode']]}{n_ov}"


def facts_of(session: SessionTranscript, about: Mapping[str, Any] | None = None) -> Facts:
    """Return the facts of a session by its reference, and by what its row says.

    Args:
        about: ``duration`` in seconds, ``language`` and ``corpus``, each if known.
    """
    known = about or {}
    speakers = {r.speaker for r in session.reference if r.speaker is not None}
    timed = [(r.start, r.end) for r in session.reference if r.start is not None and r.end is not None]
    whole = timed if len(timed) == len(session.reference) else []
    seconds = known.get("duration") or max((end for _, end in whole), default=None)
    return Facts(
        speakers=len(speakers) or None,
        overlap=overlap_ratio(session) if whole else None,
        seconds=seconds,
        language=known.get("language"),
        corpus=known.get("corpus"),
        session=session.unit_group,
    )


def overlap_ratio(session: SessionTranscript) -> float | None:
    """Return the share of speech time with two or more different speakers; ``None`` without speech."""
    marks = [
        mark
        for r in session.reference
        if r.start is not None and r.end is not None
        for mark in ((r.start, 1, r.speaker), (r.end, -1, r.speaker))
    ]
    active: dict[str | None, int] = {}
    speech = both = 0.0
    before = 0.0
    for time, change, speaker in sorted(marks, key=lambda m: (m[0], m[1])):
        count = sum(n > 0 for n in active.values())
        speech += (time - before) * (count > 0)
        both += (time - before) * (count > 1)
        active[speaker] = active.get(speaker, 0) + change
        before = time
    return both / speech if speech > 0 else None


def _bin(value: float, bins: Sequence[tuple[float, str]]) -> tuple[int, str]:
    """Return place and name of the first bin that ends at or after a value."""
    return next((i, name) for i, (end, name) in enumerate(bins) if value <= end + 1e-9)


def _overlap(f: Facts) -> tuple[Any, str] | None:
    return None if f.overlap is None else _bin(min(f.overlap, 1.0), OVERLAPS)


def _duration(f: Facts) -> tuple[Any, str] | None:
    return None if f.seconds is None else _bin(f.seconds, DURATIONS)


def _speakers(f: Facts) -> tuple[Any, str] | None:
    if f.speakers is None:
        return None
    return min(f.speakers, MANY_SPEAKERS), f"{f.speakers}" if f.speakers < MANY_SPEAKERS else f"{MANY_SPEAKERS} or more"


def _text(name: str) -> Callable[[Facts], tuple[Any, str] | None]:
    def find(f: Facts) -> tuple[Any, str] | None:
        value = getattr(f, name)
        return (value, value) if value else None

    return find


# Property → (sort key, name) of a recording.
PROPERTIES: dict[str, Callable[[Facts], tuple[Any, str] | None]] = {
    "overlap": _overlap,
    "speakers": _speakers,
    "duration": _duration,
    "language": _text("language"),
    "corpus": _text("corpus"),
    "session": _text("session"),
}
HEAD = ("test set", "system", "mode", "N_ov", "by", "value", "recordings", "ref. tokens", "CER", "cpCER", "saCER")


def breakdown(measured: Sequence[Measured]) -> Table | None:
    """Return one line per row, property and value; a property with one value in the row is omitted.

    Sessions are listed only if some have several clips: else each line would be one clip.
    """
    metrics = metric_names([m.row for m in measured])
    lines = [line for m in measured for name in PROPERTIES for line in _lines(m, name, metrics)]
    if not lines:
        return None
    head = tuple(named(h, [m.row["normaliser"] for m in measured]) for h in HEAD)
    note = "Sums of errors over sums of reference tokens, in percent. Recordings whose property is unknown are omitted."
    return Table("breakdown", "Breakdown", (*head, *metrics), tuple(lines), note, text_columns=6)


def _lines(m: Measured, name: str, metrics: Sequence[str]) -> list[tuple[Any, ...]]:
    """Return the lines of one row and property."""
    parts: dict[tuple[Any, str], list[SessionScore]] = {}
    for score, facts in zip(m.scores, m.facts, strict=True):
        place = PROPERTIES[name](facts)
        if place is not None:
            parts.setdefault(place, []).append(score)
    if len(parts) < 2 or (name == "session" and all(len(p) == 1 for p in parts.values())):
        return []
    of = (m.row["test_set"], system(m.row), m.row["mode"], m.row["n_ov"], name)
    lines = []
    for (_, value), scores in sorted(parts.items()):
        sums = total(scores)
        rates = [edits.percent if edits else None for edits in (sums.cer, sums.cpcer, sums.sacer)]
        found = [rate.figure if (rate := sums.metrics.get(n)) else None for n in metrics]
        lines.append((*of, value, len(scores), sums.cer.reference, *rates, *found))
    return lines
