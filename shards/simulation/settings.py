"""Settings of a simulated conversation."""

from __future__ import annotations

import math
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
        whole = {"--speakers": self.speakers, "--words-per-turn": self.utterances_per_turn}
        whole |= {"--turns": self.turns} if self.turns else {}
        times = {"--word-gap": self.utterance_gap, "--edge": self.edge}
        for option, pair in (whole | times | {"--seconds": self.seconds, "--snr": self.snr_db}).items():
            if not pair[0] <= pair[1]:
                raise ConfigError(f"{option} {pair[0]:g}-{pair[1]:g}: the minimum exceeds the maximum")
            if option in whole and pair[0] < 1:
                raise ConfigError(f"{option} {pair[0]:g}-{pair[1]:g}: expected at least 1")
        if self.seconds[0] < 0 or (self.seconds[1] if self.turns else self.seconds[0]) <= 0:  # turns need a limit only
            raise ConfigError(f"--seconds {self.seconds[0]:g}-{self.seconds[1]:g}: a conversation is longer than 0 s")
        if not 0 <= self.overlap <= 1:
            raise ConfigError(f"--overlap {self.overlap:g}: a probability is between 0 and 1")
        lengths = {option: pair[0] for option, pair in times.items()}
        for option, value in (lengths | {"--pause": self.pause, "--overlap-seconds": self.overlap_seconds}).items():
            if not 0 <= value < math.inf:
                raise ConfigError(f"{option} {value:g}: expected a number of seconds >= 0")
