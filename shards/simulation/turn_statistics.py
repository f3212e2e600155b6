"""``speakerlm-shards statistics MANIFEST FILE``: how people take turns in a real corpus, for ``simulate --statistics``.

After Landini et al. (2022, arXiv 2204.00890): segments of a session in order of start give three distributions, of the
pause between two segments of one speaker, of the pause between two speakers, and of their overlap, and the share of
changes of speaker that overlap. In addition to theirs: how often a speaker goes on. Kept as quantiles.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from shards.errors import ConfigError, ManifestError
from shards.manifests.manifest import Recording, read_manifest
from shards.storage.local import LocalStorage

QUANTILES = 201
FORMAT = 1


@dataclass(frozen=True)
class TurnStatistics:
    """Quantiles at 0, 0.5, …, 100 % in seconds; probabilities of what follows a segment."""

    same: float  # the same speaker goes on
    overlap: float  # of changes of speaker: the next begins before the last has ended
    same_pause: tuple[float, ...]
    other_pause: tuple[float, ...]
    overlap_seconds: tuple[float, ...]
    transitions: int  # that it was estimated from
    source: str = ""

    def draw(self, rng: np.random.Generator, quantiles: Sequence[float]) -> float:
        """Seconds, by linear interpolation between quantiles."""
        return float(np.interp(rng.random(), np.linspace(0, 1, len(quantiles)), quantiles))


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the command."""
    parser.add_argument("manifest", type=Path, help="manifest folder of real conversations, uncut")
    parser.add_argument("out", type=Path, help="file to write")


def run(args: argparse.Namespace) -> int:
    """Estimate, write, print one line."""
    found = estimate(read_manifest(args.manifest), str(args.manifest))
    data = json.dumps({"format": FORMAT} | asdict(found), indent=1).encode() + b"\n"
    LocalStorage(args.out.absolute().parent).write_atomic(args.out.name, data)
    middle = {name: getattr(found, name)[QUANTILES // 2] for name in ("same_pause", "other_pause", "overlap_seconds")}
    print(
        f"{args.out}: {found.transitions} transitions; the same speaker goes on in {found.same:.1%}, "
        f"changes overlap in {found.overlap:.1%}; medians " + ", ".join(f"{k} {v:.2f} s" for k, v in middle.items())
    )
    return 0


def read_statistics(path: Path) -> TurnStatistics:
    """What the command wrote.

    Raises:
        ConfigError: it is not there or not of this format.
    """
    try:
        told = json.loads(path.read_bytes())
        if told.pop("format") != FORMAT:
            raise ValueError("another format version")
        names = ("same_pause", "other_pause", "overlap_seconds")
        return TurnStatistics(**(told | {k: tuple(float(x) for x in told[k]) for k in names}))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ConfigError(f"{path}: no statistics: {error}; make them by speakerlm-shards statistics") from error


def estimate(recordings: Iterable[Recording], source: str = "") -> TurnStatistics:
    """Estimate turn-taking statistics from sessions with several speakers.

    Every segment is compared with the one before it that ends last. An overlap is at most the shorter's length.

    Raises:
        ManifestError: no change of speaker at all.
    """
    same: list[float] = []
    pauses: list[float] = []
    overlaps: list[float] = []
    for recording in recordings:
        if len(recording.speakers) < 2:
            continue
        segments = sorted(recording.segments, key=lambda s: (s.start, s.end))
        last = segments[0]
        for s in segments[1:]:
            gap = s.start - last.end
            if s.speaker == last.speaker:
                same.append(max(0.0, gap))
            elif gap >= 0:
                pauses.append(gap)
            else:
                overlaps.append(min(last.end, s.end) - s.start)
            last = max(last, s, key=lambda x: x.end)
    changes = len(pauses) + len(overlaps)
    if not changes:
        raise ManifestError(f"{source}: nobody follows another speaker; it takes recordings of conversations")
    return TurnStatistics(
        same=len(same) / (len(same) + changes),
        overlap=len(overlaps) / changes,
        same_pause=_quantiles(same),
        other_pause=_quantiles(pauses),
        overlap_seconds=_quantiles(overlaps),
        transitions=len(same) + changes,
        source=source,
    )


def _quantiles(values: Sequence[float]) -> tuple[float, ...]:
    found = np.quantile(values, np.linspace(0, 1, QUANTILES)) if values else np.zeros(QUANTILES)
    return tuple(round(float(v), 4) for v in found)
