"""Settings of a simulated conversation."""

from __future__ import annotations

from dataclasses import dataclass

from shards.errors import ConfigError
from shards.simulation.turn_statistics import TurnStatistics

Range = tuple[float, float]


@dataclass(frozen=True)
class SimulationSettings:
    """What is drawn, and from where. A pair is a uniform range with both ends in it; times are seconds."""

    speakers: tuple[int, int] = (2, 4)
    seconds: Range = (50.0, 50.0)  # length of the audio; its end is a hard limit
    turns: tuple[int, int] | None = None  # None: as many as fill the drawn length, which the audio then has exactly
    utterances_per_turn: tuple[int, int] = (1, 1)
    utterance_gap: Range = (0.05, 0.25)  # inside a turn
    pause: float = 0.5  # mean of the exponential pause between turns
    overlap: float = 0.2  # probability that the next turn begins before the last has ended
    overlap_seconds: float = 0.7  # mean of the exponential overlap; at most half of either turn
    edge: Range = (0.1, 0.3)  # silence before the first and after the last word
    gain_db: float = 3.0  # each speaker's level is drawn from ± this
    statistics: TurnStatistics | None = None  # takes the place of pause, overlap and overlap_seconds
    same_language: bool = False
    rooms: str = "none"
    noise: str = "none"
    snr_db: Range = (10.0, 20.0)

    def check(self) -> None:
        """Raise :class:`ConfigError` where a setting makes no sense."""
        ranges = [self.speakers, self.seconds, self.utterances_per_turn, self.utterance_gap, self.edge, self.snr_db]
        for pair in [*ranges, *([self.turns] if self.turns else [])]:
            if pair[0] > pair[1]:
                raise ConfigError(f"the range {pair[0]}-{pair[1]} is reversed")
        if self.speakers[0] < 1 or self.utterances_per_turn[0] < 1 or (self.turns and self.turns[0] < 1):
            raise ConfigError("a conversation has at least one speaker, one turn and one utterance in a turn")
        if not 0 <= self.overlap <= 1 or min(self.pause, self.overlap_seconds, self.edge[0]) < 0 >= self.seconds[0]:
            raise ConfigError("the overlap is a probability; times are not negative")
