"""Settings of a simulated conversation."""

from __future__ import annotations

from dataclasses import dataclass

from shards.errors import ConfigError
from shards.simulation.turn_statistics import TurnStatistics

Range = tuple[float, float]


@dataclass(frozen=True)
class SimulationSettings:
    """Distributions that conversations are drawn from. A pair is a uniform range, ends included; times in seconds."""

    speakers: tuple[int, int] = (2, 4)
    seconds: Range = (50.0, 50.0)  # length of the audio; the maximum is a hard limit
    turns: tuple[int, int] | None = None  # None: as many as fill the drawn length exactly
    utterances_per_turn: tuple[int, int] = (1, 1)
    utterance_gap: Range = (0.05, 0.25)  # between utterances of a turn
    pause: float = 0.5  # mean of the exponential pause between turns
    overlap: float = 0.2  # probability that a turn overlaps the previous one
    overlap_seconds: float = 0.7  # mean of the exponential overlap; at most half of either turn
    edge: Range = (0.1, 0.3)  # silence at both ends
    gain_db: float = 3.0  # speaker levels are drawn from ± this
    statistics: TurnStatistics | None = None  # replaces pause, overlap and overlap_seconds
    same_language: bool = False
    rooms: str = "none"
    noise: str = "none"
    snr_db: Range = (10.0, 20.0)

    def check(self) -> None:
        """Raise :class:`ConfigError` for an invalid setting."""
        ranges = [self.speakers, self.seconds, self.utterances_per_turn, self.utterance_gap, self.edge, self.snr_db]
        for pair in [*ranges, *([self.turns] if self.turns else [])]:
            if pair[0] > pair[1]:
                raise ConfigError(f"range {pair[0]}-{pair[1]}: the minimum exceeds the maximum")
        if self.speakers[0] < 1 or self.utterances_per_turn[0] < 1 or (self.turns and self.turns[0] < 1):
            raise ConfigError("a conversation needs at least one speaker, one turn and one utterance per turn")
        if not 0 <= self.overlap <= 1 or min(self.pause, self.overlap_seconds, self.edge[0]) < 0 >= self.seconds[0]:
            raise ConfigError("--overlap must be a probability, and times must not be negative")
