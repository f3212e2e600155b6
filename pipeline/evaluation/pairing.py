"""Match reference and hypothesis sessions, and report mismatches.

- no session in common: an error (a hypothesis for another set)
- a reference session without hypothesis: all deletions, and reported
- a hypothesis session without reference: cannot be scored, skipped with a warning
- a hypothesis without segments: all deletions, and reported; a reference without segments: an error
- overlapping turns of one speaker: scored in order of start time, counted
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pipeline.evaluation.normalize import Profile
from pipeline.evaluation.records import SegLstRow, SessionTranscript, by_session, by_speaker
from shards.errors import ScoreError


@dataclass(frozen=True)
class Paired:
    """Sessions in order of the reference, and findings about the input."""

    sessions: tuple[SessionTranscript, ...]
    findings: tuple[str, ...]
    missing: tuple[str, ...] = ()  # sessions without a hypothesis
    extra: tuple[str, ...] = ()  # hypothesis sessions without a reference


def pair(
    reference: Sequence[SegLstRow],
    hypothesis: Sequence[SegLstRow],
    group: Callable[[str], str] | None = None,
    names: Mapping[str, Sequence[str]] | None = None,
    notes: Mapping[str, Sequence[str]] | None = None,
) -> Paired:
    """Match sessions by id.

    Args:
        group: session id → recording, for the bootstrap; by default the session itself.
        names: registered names of each session, if there was a registration.
        notes: of the parser on each session's hypothesis, for the report.

    Raises:
        ScoreError: the reference is empty, or no session is in both.
    """
    if not reference:
        raise ScoreError("the reference holds no segment")
    refs, hyps = by_session(reference), by_session(hypothesis)
    missing = tuple(s for s in refs if s not in hyps)
    extra = tuple(s for s in hyps if s not in refs)
    if hypothesis and len(missing) == len(refs):
        raise ScoreError(
            f"no session is in both: the reference has {few(refs)}, the hypothesis {few(hyps)}; is it of another set?"
        )
    findings = []
    if not hypothesis:
        findings.append("the hypothesis holds no segment: everything counts as deleted")
    elif missing:
        findings.append(
            f"{len(missing)} of {len(refs)} sessions have no hypothesis and count as deleted: {few(missing)}"
        )
    if extra:
        findings.append(f"{len(extra)} hypothesis sessions have no reference and are skipped: {few(extra)}")
    for side, sessions in (("reference", refs), ("hypothesis", hyps)):
        overlaps = sum(self_overlaps(s) for s in sessions.values())
        if overlaps:
            findings.append(f"{side}: {overlaps} turns begin before the same speaker's turn before has ended")
    loose = sum(1 for s in hypothesis if s.session in refs and s.speaker is None and s.text)
    if loose and any(s.speaker is not None for s in hypothesis):
        findings.append(f"hypothesis: {loose} turns have no speaker and are insertions in cpCER and saCER")
    made = tuple(
        SessionTranscript(
            id=s,
            reference=tuple(segments),
            hypothesis=tuple(hyps.get(s, ())),
            group=group(s) if group else s,
            names=tuple(names[s]) if names and s in names else None,
            notes=tuple(notes[s]) if notes and s in notes else (),
        )
        for s, segments in refs.items()
    )
    return Paired(made, tuple(findings), missing, extra)


def wordless(sessions: Iterable[SessionTranscript], profile: Profile, answered: bool = False) -> str | None:
    """Return a finding on sessions whose hypothesis has turns and no words, where the reference has words.

    ``profile`` says what a word is: ``……`` is not one. ``answered``: every session has a hypothesis, and one
    without turns is an empty answer.
    """
    turned = [s for s in sessions if s.hypothesis or answered]
    empty = [s.id for s in turned if not _has_words(s.hypothesis, profile) and _has_words(s.reference, profile)]
    if not empty:
        return None
    return f"hypothesis: {len(empty)} of {len(turned)} sessions hold no words and count as deleted: {few(empty)}"


def _has_words(rows: Iterable[SegLstRow], profile: Profile) -> bool:
    return any(profile.tokens(r.text) for r in rows)


def self_overlaps(segments: Iterable[SegLstRow]) -> int:
    """Count turns that begin before an earlier turn of the same speaker has ended."""
    found = 0
    for turns in by_speaker(s for s in segments if s.timed).values():
        ends = -1.0
        for s in sorted(turns, key=lambda s: s.start or 0.0):
            found += (s.start or 0.0) < ends
            ends = max(ends, s.end or 0.0)
    return found


def audio_in(folder: Path) -> Callable[[str], bytes | None]:
    """Return session → its ``.flac`` file in a folder, for the report."""

    def find(session: str) -> bytes | None:
        path = folder / f"{session}.flac"
        return path.read_bytes() if path.is_file() else None

    return find


def few(names: Iterable[str]) -> str:
    """Return the first three names, and the number of others."""
    listed = list(names)
    return ", ".join(listed[:3]) + (f" and {len(listed) - 3} more" if len(listed) > 3 else "")
