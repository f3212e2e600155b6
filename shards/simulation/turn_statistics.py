"""``speakerlm-shards statistics MANIFEST FILE``: turn-taking statistics of a real corpus, for ``simulate``.

Follows Landini et al. (2022, arXiv 2204.00890): the segments of a session in order of start give three distributions,
of pauses within a speaker, pauses between speakers, and overlaps, and the share of speaker changes that overlap. Added
to theirs: how often the same speaker continues. Distributions are stored as quantiles.
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
from shards.workers import progress

QUANTILES = 201
FORMAT = 1


@dataclass(frozen=True)
class TurnStatistics:
    """Turn-taking probabilities, and quantiles at 0, 0.5, …, 100 % of pauses and overlaps in seconds."""

    same: float  # probability that the same speaker continues
    overlap: float  # probability that a speaker change overlaps
    same_pause: tuple[float, ...]
    other_pause: tuple[float, ...]
    overlap_seconds: tuple[float, ...]
    transitions: int  # number of transitions it was estimated from
    source: str = ""

    def draw(self, rng: np.random.Generator, quantiles: Sequence[float]) -> float:
        """Draw seconds by linear interpolation between quantiles."""
        return float(np.interp(rng.random(), np.linspace(0, 1, len(quantiles)), quantiles))


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of the command."""
    parser.add_argument("manifest", type=Path, help="manifest folder of real conversations, not cut into clips")
    parser.add_argument("out", type=Path, help="JSON file to write")


def run(args: argparse.Namespace) -> int:
    """Estimate and write the statistics, and print a summary."""
    recordings = progress(read_manifest(args.manifest), "recordings", unit="recording")
    found = estimate(recordings, str(args.manifest))
    data = json.dumps({"format": FORMAT} | asdict(found), indent=1).encode() + b"\n"
    LocalStorage(args.out.absolute().parent).write_atomic(args.out.name, data)
    middle = {name: getattr(found, name)[QUANTILES // 2] for name in ("same_pause", "other_pause", "overlap_seconds")}
    print(
        f"{args.out}: {found.transitions} transitions; the same speaker continues in {found.same:.1%}, "
        f"speaker changes overlap in {found.overlap:.1%}; medians "
        + ", ".join(f"{k} {v:.2f} s" for k, v in middle.items())
    )
    return 0


def read_statistics(path: Path) -> TurnStatistics:
    """Read the file of the command.

    Raises:
        ConfigError: the file is missing or has another format.
    """
    try:
        record = json.loads(path.read_bytes())
        if record.pop("format") != FORMAT:
            raise ValueError("another format version")
        names = ("same_pause", "other_pause", "overlap_seconds")
        return TurnStatistics(**(record | {k: tuple(float(x) for x in record[k]) for k in names}))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ConfigError(
            f"{path}: invalid statistics file: {error}; create it with speakerlm-shards statistics"
        ) from error


def estimate(recordings: Iterable[Recording], source: str = "") -> TurnStatistics:
    """Estimate turn-taking statistics from sessions with several speakers.

    Each segment is compared with the previous segment that ends last. Overlaps are at most as long as the shorter one.

    Raises:
        ManifestError: no speaker change in any session.
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
        raise ManifestError(f"{source}: no speaker changes; statistics need recordings of conversations")
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
