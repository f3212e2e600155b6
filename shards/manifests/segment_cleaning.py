"""Checks and repairs of a recording's segments: times, words, overlaps of a speaker with itself."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import replace

from shards.manifests.audit import Audit
from shards.manifests.text_policy import TextPolicy, joined
from shards.sample import Segment

TRIM_S = 0.5  # two segments of one speaker that share at most this are parted, others joined
SLACK_S = 0.01  # times are rounded in every corpus; less than this past an end is not worth a word


def clean_segments(
    segments: Iterable[Segment], duration: float, text: TextPolicy, audit: Audit, where: str, *, words: bool = True
) -> tuple[Segment, ...]:
    """Segments in order of start that lie inside the recording, each with text.

    Left out: what has no words (with `words`; an empty mark is silence and not worth counting), times that are
    reversed, empty or not finite, and what lies wholly outside. Cut: what begins before 0 or ends after `duration`
    seconds. Two of one speaker that overlap by at most half a second are parted where the later one begins; those that
    overlap by more become one, so that no word is lost.
    """
    kept = []
    for s in segments:
        place = f"{where}: {s.speaker} {s.start:g}–{s.end:g} s"
        new = text(s.text)
        if not _can_be_written(new):
            audit.skip("segment whose text holds half a character", f"{place}: {new[:40]!a}")
        elif words and not new:
            if s.text.strip():
                audit.skip("segment without words", f"{place}: {s.text[:40]!r}")
        elif not (math.isfinite(s.start) and math.isfinite(s.end)):
            audit.skip("segment with a time that is no number", place)
        elif s.end <= s.start:
            audit.skip("segment with reversed or empty times", f"{place}: {new[:40]!r}")
        elif s.end <= 0 or s.start >= duration:
            audit.skip("segment outside the recording", f"{place} of {duration:.2f} s")
        else:
            if s.start < -SLACK_S:
                audit.change("segment begins before 0: cut", place)
            if s.end > duration + SLACK_S:
                audit.change("segment ends after the recording: cut", f"{place} of {duration:.2f} s")
            kept.append(replace(s, start=max(0.0, s.start), end=min(duration, s.end), text=new))
    return _apart(sorted(kept, key=lambda s: (s.start, s.end)), audit, where)


def _can_be_written(text: str) -> bool:
    """Whether there is no lone surrogate in it, as JSON's escapes can name."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _apart(segments: Sequence[Segment], audit: Audit, where: str) -> tuple[Segment, ...]:
    """No two segments of one speaker overlap."""
    done: list[Segment] = []
    last: dict[str, int] = {}  # speaker → place of the last segment in `done`
    for s in segments:
        before = last.get(s.speaker)
        if before is None or done[before].end <= s.start:
            last[s.speaker] = len(done)
            done.append(s)
            continue
        other = done[before]
        place = f"{where}: {s.speaker} {other.start:g}–{other.end:g} and {s.start:g}–{s.end:g} s"
        if (s.start, s.end, s.text) == (other.start, other.end, other.text):
            audit.skip("segment written twice", place)
        elif other.end - s.start <= TRIM_S and other.start < s.start and other.end < s.end:
            audit.change("segments of one speaker overlap a little: parted", place)
            done[before] = replace(other, end=s.start)
            last[s.speaker] = len(done)
            done.append(s)
        else:
            audit.change("segments of one speaker overlap: joined", place)
            done[before] = replace(other, end=max(other.end, s.end), text=joined(other.text, s.text))
    return tuple(done)
