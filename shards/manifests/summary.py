"""Counts of a manifest: sessions, speakers, hours of speech, overlap."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from shards.manifests.keys import HashSet
from shards.manifests.manifest import Recording

SPEAKERS_LISTED = 10_000  # with more speakers, the audit holds their number only


class Summary:
    """Counts in every audit: recordings, sessions, speakers, hours of speech, overlap ratio."""

    def __init__(self) -> None:
        self.recordings = self._texts = 0
        self._sessions = HashSet()
        self._speakers: dict[str, float] = {}
        self._speech = self._overlap = 0.0

    def counting(self, recordings: Iterable[Recording]) -> Iterator[Recording]:
        """Yield the recordings unchanged while counting them."""
        for recording in recordings:
            self.add(recording)
            yield recording

    def add(self, recording: Recording) -> None:
        """Count one recording."""
        self.recordings += 1
        self._sessions.add(recording.session)
        for s in recording.segments:
            self._speakers[s.speaker] = self._speakers.get(s.speaker, 0.0) + s.end - s.start
            self._texts += bool(s.text)
        covered, several = speech_and_overlap([(s.start, s.end) for s in recording.segments])
        self._speech, self._overlap = self._speech + covered, self._overlap + several

    def result(self) -> dict[str, Any]:
        """Return the entries of ``audit.json``."""
        known = self._speakers if len(self._speakers) <= SPEAKERS_LISTED else {}
        return {
            "recordings": self.recordings,
            "sessions": len(self._sessions),
            "num_speakers": len(self._speakers),
            "speakers": {speaker: round(seconds, 2) for speaker, seconds in sorted(known.items())},
            "hours": round(self._speech / 3600, 4),
            "overlap": round(self._overlap / self._speech, 4) if self._speech else 0.0,
            "segments_with_text": self._texts,
        }


def audit_lines(folder: str | Path, audit: dict[str, Any]) -> list[str]:
    """Summarize an audit in a few lines."""
    lines = [
        f"{folder}: {audit['recordings']} recordings of {audit['sessions']} sessions, "
        f"{audit['num_speakers']} speakers, {audit['hours']:.2f} h of speech, {audit['overlap']:.1%} of it overlapped"
    ]
    text = audit.get("text")
    if isinstance(text, dict):
        kinds = ("with_punctuation", "with_lower_case", "with_digits")
        shares = ", ".join(f"{text[k]} {k.replace('_', ' ')}" for k in kinds)
        lines.append(f"  text {text['policy']}: {text['means']}; of {text['texts']} texts {shares}")
    if audit["recordings"] and not audit["segments_with_text"]:
        lines.append("  no words: usable for enrolment and statistics; training needs a text in each segment")
    lines += [f"  one person needs one id, these differ in case: {', '.join(ids)}" for ids in _alike(audit["speakers"])]
    for kind in ("skipped", "changed"):
        for reason, count in audit.get(kind, {}).items():
            examples = audit.get("examples", {}).get(reason, [])
            lines.append(f"  {kind} {count} × {reason}" + (f", first: {examples[0]}" if examples else ""))
    return lines


def _alike(speakers: Iterable[str]) -> list[list[str]]:
    """Return groups of speaker ids that differ in upper and lower case only."""
    groups: dict[str, list[str]] = {}
    for speaker in speakers:
        groups.setdefault(speaker.casefold(), []).append(speaker)
    return [ids for ids in groups.values() if len(ids) > 1]


def speech_and_overlap(spans: list[tuple[float, float]]) -> tuple[float, float]:
    """Return the seconds covered by at least one and by at least two of the (start, end) spans."""
    edges = sorted([(start, 1) for start, _ in spans] + [(end, -1) for _, end in spans])
    covered = several = last = 0.0
    depth = 0
    for time, step in edges:
        covered += (time - last) * (depth > 0)
        several += (time - last) * (depth > 1)
        last, depth = time, depth + step
    return covered, several
