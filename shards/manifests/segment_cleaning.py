"""Checks and repairs of a recording's segments: invalid times, empty text, overlaps of a speaker with itself."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import replace

from shards.manifests.audit import Audit
from shards.manifests.text_policy import TextPolicy, is_encodable, joined
from shards.sample import Segment

TRIM_S = 0.5  # same-speaker overlaps up to this are trimmed, longer ones merged
SLACK_S = 0.01  # corpora round their times: smaller overruns are trimmed without an audit entry


def clean_segments(
    segments: Iterable[Segment], duration: float, text: TextPolicy, audit: Audit, where: str, *, words: bool = True
) -> tuple[Segment, ...]:
    """Return valid segments in order of start, inside the recording, with the text policy applied.

    Skipped: segments without words (with `words`), with reversed, empty or non-finite times, or outside the recording.
    Trimmed: segments that start before 0 or end after `duration` seconds. Two segments of one speaker that overlap by
    at most half a second are trimmed at the start of the later one; longer overlaps are merged into one segment, so
    that no word is lost.
    """
    kept = []
    for s in segments:
        place = f"{where}: {s.speaker} {s.start:g}–{s.end:g} s"
        new = text(s.text)
        if not is_encodable(new):
            audit.skip("segment text with a lone surrogate", f"{place}: {new[:40]!a}")
        elif words and not _is_visible(new):
            audit.skip("segment without words", f"{place}: {s.text[:40]!r}")
        elif not (math.isfinite(s.start) and math.isfinite(s.end)):
            audit.skip("segment with a non-finite time", place)
        elif s.end <= s.start:
            audit.skip("segment with reversed or empty times", f"{place}: {new[:40]!r}")
        elif s.end <= 0 or s.start >= duration:
            audit.skip("segment outside the recording", f"{place} of {duration:.2f} s")
        else:
            if s.start < -SLACK_S:
                audit.change("segment starts before 0: trimmed", place)
            if s.end > duration + SLACK_S:
                audit.change("segment ends after the recording: trimmed", f"{place} of {duration:.2f} s")
            kept.append(replace(s, start=max(0.0, s.start), end=min(duration, s.end), text=new))
    return _without_self_overlap(sorted(kept, key=lambda s: (s.start, s.end)), audit, where)


def _is_visible(text: str) -> bool:
    """Return whether the text is more than spaces, format and control characters."""
    return any(c.isprintable() and c != " " for c in text)


def _without_self_overlap(segments: Sequence[Segment], audit: Audit, where: str) -> tuple[Segment, ...]:
    """Trim or merge segments so that no two of one speaker overlap."""
    done: list[Segment] = []
    last: dict[str, int] = {}  # speaker → index of their last segment in `done`
    for s in segments:
        before = last.get(s.speaker)
        if before is None or done[before].end <= s.start:
            last[s.speaker] = len(done)
            done.append(s)
            continue
        other = done[before]
        place = f"{where}: {s.speaker} {other.start:g}–{other.end:g} and {s.start:g}–{s.end:g} s"
        if (s.start, s.end, s.text) == (other.start, other.end, other.text):
            audit.skip("duplicate segment", place)
        elif other.end - s.start <= TRIM_S and other.start < s.start and other.end < s.end:
            audit.change("short same-speaker overlap: trimmed", place)
            done[before] = replace(other, end=s.start)
            last[s.speaker] = len(done)
            done.append(s)
        else:
            audit.change("same-speaker overlap: merged", place)
            done[before] = replace(other, end=max(other.end, s.end), text=joined(other.text, s.text))
    return tuple(done)
