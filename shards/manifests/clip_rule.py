"""Ranges of clip lengths, and the pauses at which clips are cut."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from shards.errors import ConfigError
from shards.sample import Segment

WIDER = (0.75, 1.2)  # 40–50 s becomes 30–60 s


@dataclass(frozen=True)
class ClipRule:
    """Ranges of clip lengths in seconds."""

    seconds: tuple[float, float] = (40.0, 50.0)
    widened: tuple[float, float] = (30.0, 60.0)

    def __str__(self) -> str:
        (a, b), (c, d) = self.seconds, self.widened
        return f"{a:g}-{b:g} s, cut in silence; else {c:g}-{d:g} s; else where the fewest segments are crossed"


def rule_of(low: float, high: float) -> ClipRule:
    """Return the rule of a range of seconds; in want of a pause it is widened in the proportion of the defaults.

    Raises:
        ConfigError: not a range of 1 s or more.
    """
    if not 1 <= low <= high < float("inf"):
        raise ConfigError(f"clips of {low:g}-{high:g} s: a range of 1 s or more is needed, such as 40-50")
    return ClipRule((low, high), (low * WIDER[0], high * WIDER[1]))


def silences(segments: Iterable[Segment], total: float) -> list[tuple[float, float]]:
    """Return the (start, end) spans of 0–`total` without speech, in order."""
    found = []
    reached = 0.0
    for start, end in sorted((s.start, s.end) for s in segments):
        if start > reached:
            found.append((reached, start))
        reached = max(reached, end)
    if total > reached:
        found.append((reached, total))
    return found
