"""``speakerlm-shards clips MANIFEST OUT``: cut long recordings into clips of 40–50 s at pauses.

After each cut a length is drawn from the range, and the next cut is the silent point nearest to it within the range.
Without silence there, the search widens to 30–60 s (other ranges in the same proportion), then to the start of the
segment that overlaps the fewest others.
A segment belongs to the clip in which it starts: the audio of the clip extends to its end, and speech of other clips'
segments that this audio contains is counted. Every segment is in exactly one clip, so a test set of clips covers all
speech. No audio is read or written.
"""

from __future__ import annotations

import argparse
import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from shards.arguments import natural, number_range, positive
from shards.errors import ConfigError
from shards.manifests.audio_files import audio_info
from shards.manifests.clip_rule import WIDER, ClipRule, silences
from shards.manifests.manifest import Recording, read_manifest, read_speakers, write_manifest
from shards.sample import Segment
from shards.workers import progress

AWAY_FROM_SPEECH_S = 0.2  # distance between a cut and speech in silences that are long enough


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of the command."""
    parser.add_argument("manifest", type=Path, help="manifest folder of long recordings")
    parser.add_argument("out", type=Path, help="output folder for the manifest of clips; no audio is copied")
    parser.add_argument(
        "--seconds", type=number_range, default=ClipRule().seconds, metavar="MIN-MAX", help="clip length"
    )
    widened = "clip length if the range contains no silence (default: from 0.75 times MIN to 1.2 times MAX)"
    parser.add_argument("--widened", type=number_range, metavar="MIN-MAX", help=widened)
    parser.add_argument("--seed", type=natural, default=0, help="seed of the drawn lengths")
    parser.add_argument("--passes", type=positive, default=1, help="number of different cuts of each recording")


def run(args: argparse.Namespace) -> int:
    """Write the manifest of clips and print a summary."""
    rule = _rule(args.seconds, args.widened)
    counted = _ClipCounter(rule)
    settings = {"clip_rule": str(rule), "seed": args.seed, "passes": args.passes}
    clips = counted.cut_all(read_manifest(args.manifest), args.seed, args.passes)
    write_manifest(args.out, clips, read_speakers(args.manifest), lambda: settings | counted.result())
    result = counted.result()
    print(
        f"{args.out}: {result['clips']} clips, {result['hours']} h, from {result['recordings']} recordings; "
        f"{result['seconds_of_speech_that_belongs_to_another_clip']} s of speech belong to another clip, "
        f"{result['clips_longer_than_the_range']} clips are longer than {rule.widened[1]:g} s"
    )
    return 0


def _rule(seconds: tuple[float, float], widened: tuple[float, float] | None) -> ClipRule:
    """Check the ranges; without `widened` it is wider than `seconds` in the proportion of the defaults.

    Raises:
        ConfigError: a range begins at 0, or `seconds` is not inside `widened`.
    """
    for option, given in (("--seconds", seconds), ("--widened", widened)):
        if given is not None and given[0] <= 0:
            raise ConfigError(f"{option} {given[0]:g}-{given[1]:g}: a clip is longer than 0 s")
    low, high = widened or (round(seconds[0] * WIDER[0], 3), round(seconds[1] * WIDER[1], 3))
    if not low <= seconds[0] <= seconds[1] <= high:
        raise ConfigError(
            f"--seconds {seconds[0]:g}-{seconds[1]:g} is not inside --widened {low:g}-{high:g}; "
            "widen the second range, or leave it out"
        )
    return ClipRule(seconds, (low, high))


class _ClipCounter:
    """Cuts recordings and counts the clips."""

    def __init__(self, rule: ClipRule) -> None:
        self.rule = rule
        self.recordings = self.clips = self.long = self.crossed = 0
        self.seconds = self.foreign = self.worst = 0.0

    def cut_all(self, recordings: Iterable[Recording], seed: int, passes: int) -> Iterator[Recording]:
        """Yield the clips of all recordings and passes."""
        for recording in progress(recordings, "clips", unit="recording"):
            self.recordings += 1
            for number in range(passes):
                for clip in cut(recording, self.rule, seed, number):
                    self._add(clip, foreign_seconds(clip, recording))
                    yield clip

    def _add(self, clip: Recording, foreign: float) -> None:
        seconds = clip.duration or 0.0
        self.clips += 1
        self.long += seconds > self.rule.widened[1]
        self.crossed += foreign > 0
        self.seconds, self.foreign, self.worst = (
            self.seconds + seconds,
            self.foreign + foreign,
            max(self.worst, foreign),
        )

    def result(self) -> dict[str, Any]:
        """Return the counts for the audit."""
        return {
            "recordings": self.recordings,
            "clips": self.clips,
            "hours": round(self.seconds / 3600, 4),
            "seconds_of_speech_that_belongs_to_another_clip": round(self.foreign, 2),
            "most_of_it_in_one_clip": round(self.worst, 2),
            "clips_with_such_speech": self.crossed,
            "clips_longer_than_the_range": self.long,
        }


def cut(recording: Recording, rule: ClipRule, seed: int, number: int = 0) -> list[Recording]:
    """Return the clips of a recording that contain speech, in order; each pass `number` draws different lengths."""
    digest = hashlib.sha256(recording.key.encode()).digest()
    rng = np.random.default_rng([seed, number, int.from_bytes(digest[:8], "big")])
    total = recording.duration
    if total is None:
        total = audio_info(Path(recording.audio)).seconds - recording.start
    edges = cut_points(recording.segments, total, rule, rng)
    clips = []
    for first, last in pairwise(edges):
        own = [s for s in recording.segments if first <= s.start < last]
        if not own:
            continue
        end = min(total, max(last, *(s.end for s in own)))
        suffix = f"-p{number}" if number else ""
        clips.append(
            replace(
                recording,
                key=f"{recording.key}-{round((recording.start + first) * 1000):09d}{suffix}",
                start=recording.start + first,
                duration=end - first,
                segments=tuple(replace(s, start=s.start - first, end=min(s.end, end) - first) for s in own),
            )
        )
    return clips


def cut_points(segments: Sequence[Segment], total: float, rule: ClipRule, rng: np.random.Generator) -> list[float]:
    """Return ascending cut points from 0 to `total`; the last clip may be shorter than the range."""
    pauses = silences(segments, total)
    points = [0.0]
    while total - points[-1] > rule.seconds[1]:
        origin = points[-1]
        goal = origin + rng.uniform(*rule.seconds)
        for low, high in (rule.seconds, rule.widened):
            found = [p for pause in pauses if (p := _nearest(pause, goal, origin + low, origin + high)) is not None]
            if found:
                break
        else:
            found = _fewest_crossed(segments, origin + rule.widened[0], min(total, origin + rule.widened[1]))
            found = found or _next_cut_after(segments, pauses, origin + rule.widened[1], total)
        points.append(min(found, key=lambda p: abs(p - goal)))
        if total - points[-1] <= 0:
            return points
    return [*points, total]


def foreign_seconds(clip: Recording, origin: Recording) -> float:
    """Return the seconds of speech in the clip that belong to segments of other clips."""
    first = clip.start - origin.start
    last = first + (clip.duration or 0.0)
    own = {(s.speaker, round(s.start + first, 6)) for s in clip.segments}
    return sum(
        max(0.0, min(s.end, last) - max(s.start, first))
        for s in origin.segments
        if (s.speaker, round(s.start, 6)) not in own
    )


def _nearest(pause: tuple[float, float], goal: float, low: float, high: float) -> float | None:
    """Return the point of a pause nearest to `goal` within [low, high], or None."""
    inset = min(AWAY_FROM_SPEECH_S, (pause[1] - pause[0]) / 2)
    first, last = max(pause[0] + inset, low), min(pause[1] - inset, high)
    return min(max(goal, first), last) if first <= last else None


def _fewest_crossed(segments: Sequence[Segment], low: float, high: float) -> list[float]:
    """Return the segment starts in [low, high] that the fewest other segments overlap."""
    points = sorted({s.start for s in segments if low <= s.start <= high})
    crossed = [sum(s.start < p < s.end for s in segments) for p in points]
    return [p for p, n in zip(points, crossed, strict=True) if n == min(crossed)]


def _next_cut_after(
    segments: Sequence[Segment], pauses: Sequence[tuple[float, float]], after: float, total: float
) -> list[float]:
    """Return the first pause or segment start after the range, or the end of the recording."""
    starts = [s.start for s in segments if s.start > after]
    return [min([*starts, *(p for p, _ in pauses if p > after), total])]
