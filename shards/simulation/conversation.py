"""Layouts of simulated conversations: who says what and when, without the sound.

Follows the simulated conversations of Landini et al. (2022, arXiv 2204.00890): utterances of single speakers are placed
on a time line, with a pause between turns or an overlap with the previous turn. Pauses and overlaps are drawn from the
statistics of a real corpus (:mod:`shards.simulation.turn_statistics`) or from exponential distributions; without pauses
and overlaps the result is a concatenation. A turn is one or more utterances of one speaker with short pauses between
them. A layout is a pure function of (pool, settings, seed, number).
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from shards.errors import ConfigError
from shards.sample import SAMPLE_RATE, Segment
from shards.simulation.settings import SimulationSettings
from shards.simulation.turn_statistics import TurnStatistics
from shards.simulation.utterance_pool import SourceUtterance, UtterancePool

NO_SPACE = {"zh", "ja", "yue"}  # languages whose words are joined without a space
ATTEMPTS = 200
FITTING = 8  # draws of a turn for the rest of a conversation before the rest stays silent
AFTER_OWN_TURN_S = 0.1  # minimum pause between two turns of one speaker
SKIP_SPEAKER = 0.3  # share of speakers that skip each round after the first
Fingerprint = tuple[tuple[str, str], ...]  # (speaker, text) in order of start time


@dataclass(frozen=True)
class Piece:
    """An utterance and its start on the time line, in samples."""

    utterance: SourceUtterance
    start: int


@dataclass(frozen=True)
class PlacedTurn:
    """A turn on the time line: consecutive pieces of one speaker."""

    speaker: str
    pieces: tuple[Piece, ...]

    @property
    def start(self) -> int:
        return self.pieces[0].start

    @property
    def end(self) -> int:
        return self.pieces[-1].start + self.pieces[-1].utterance.num_samples

    @property
    def text(self) -> str:
        separator = "" if self.pieces[0].utterance.language in NO_SPACE else " "
        return separator.join(p.utterance.text for p in self.pieces)


@dataclass(frozen=True)
class Layout:
    """A conversation before rendering."""

    number: int
    turns: tuple[PlacedTurn, ...]  # in order of start
    num_samples: int
    gains_db: dict[str, float]  # speaker → level
    sound_seed: int  # for the room and the noise

    @property
    def segments(self) -> tuple[Segment, ...]:
        return tuple(Segment(t.speaker, t.start / SAMPLE_RATE, t.end / SAMPLE_RATE, t.text) for t in self.turns)

    @property
    def language(self) -> str:
        """The common language, or ``mul``."""
        languages = {p.utterance.language for t in self.turns for p in t.pieces}
        return languages.pop() if len(languages) == 1 else "mul"

    @property
    def fingerprint(self) -> Fingerprint:
        return tuple((t.speaker, t.text) for t in self.turns)


def draw_layout(
    sources: UtterancePool, settings: SimulationSettings, seed: int, number: int, avoid: Collection[Fingerprint] = ()
) -> Layout:
    """Draw conversation `number`, repeatedly until it fits the maximum length and is not in `avoid`.

    Raises:
        ConfigError: none of 200 draws fits.
    """
    rng = np.random.default_rng([seed, number])
    for _ in range(ATTEMPTS):
        layout = _attempt(sources, settings, rng, number)
        if layout is not None and layout.fingerprint not in avoid:
            return layout
    raise ConfigError(
        f"conversation {number}: no draw out of {ATTEMPTS} is at most {settings.seconds[1]:g} s long"
        + (" and different from the conversations of the other sets" if avoid else "")
        + "; allow more seconds, or fewer speakers, turns or utterances per turn"
        + (", or more of them for more variety" if avoid else "")
    )


def _attempt(
    sources: UtterancePool, settings: SimulationSettings, rng: np.random.Generator, number: int
) -> Layout | None:
    cast = sources.cast(rng, int(rng.integers(settings.speakers[0], settings.speakers[1] + 1)), settings.same_language)
    gains = {speaker: float(rng.uniform(-settings.gain_db, settings.gain_db)) for speaker in cast}
    goal = round(rng.uniform(*settings.seconds) * SAMPLE_RATE)
    limit = settings.seconds[1] * SAMPLE_RATE if settings.turns else goal
    wanted = None
    if settings.turns:
        wanted = max(len(cast), int(rng.integers(settings.turns[0], settings.turns[1] + 1)))
    tail = round(rng.uniform(*settings.edge) * SAMPLE_RATE)
    turns: list[PlacedTurn] = []
    for speaker in _order(cast, rng, settings.statistics.same if settings.statistics else 0.0):
        for _ in range(1 if wanted else FITTING):
            turn = _place(_draw_turn(sources.utterances(speaker), settings, rng), turns, settings, rng)
            fits = max(turn.end, *(t.end for t in turns), 0) + tail <= limit
            if fits:
                break
        if not fits:
            break
        turns.append(turn)
        if len(turns) == wanted:
            break
    if not turns or len({t.speaker for t in turns}) < len(cast) or (wanted is not None and len(turns) < wanted):
        return None
    end = max(t.end for t in turns) + tail if wanted else goal
    return Layout(number, tuple(turns), end, gains, int(rng.integers(2**31)))


def _order(cast: Sequence[str], rng: np.random.Generator, same: float) -> Iterable[str]:
    """Yield the speakers of the turns indefinitely, in rounds of random order.

    No speaker takes two turns in a row, unless alone or, after the first round, with probability `same`.
    """
    last = ""
    first_round = True
    while True:
        for i in rng.permutation(len(cast)):
            speaker = cast[i]
            skipped = not first_round and rng.random() < SKIP_SPEAKER
            if len(cast) > 1 and (speaker == last or skipped):
                continue
            while same and not first_round and rng.random() < same:
                yield last
            yield speaker
            last = speaker
        first_round = False


def _draw_turn(
    utterances: Sequence[SourceUtterance], settings: SimulationSettings, rng: np.random.Generator
) -> list[Piece]:
    """Draw the pieces of a turn, with times from the start of the turn."""
    pieces: list[Piece] = []
    position = 0
    for _ in range(int(rng.integers(settings.utterances_per_turn[0], settings.utterances_per_turn[1] + 1))):
        utterance = utterances[int(rng.integers(len(utterances)))]
        pieces.append(Piece(utterance, position))
        position += utterance.num_samples + round(rng.uniform(*settings.utterance_gap) * SAMPLE_RATE)
    return pieces


def _place(
    pieces: list[Piece], turns: list[PlacedTurn], settings: SimulationSettings, rng: np.random.Generator
) -> PlacedTurn:
    """Place a turn after the previous turns or overlapping the last one; at most two speakers overlap."""
    speaker = pieces[0].utterance.speaker
    length = pieces[-1].start + pieces[-1].utterance.num_samples
    overlaps, pause = rng.random() < settings.overlap, rng.exponential(settings.pause)
    shared = rng.exponential(settings.overlap_seconds)
    if not turns:
        start = round(rng.uniform(*settings.edge) * SAMPLE_RATE)
    else:
        previous = max(turns, key=lambda t: t.end)
        if settings.statistics is not None:
            overlaps, pause, shared = _draw_transition(settings.statistics, previous.speaker == speaker, rng)
        if overlaps and previous.speaker != speaker:
            most = min(previous.end - previous.start, length) / (1 if settings.statistics else 2)
            start = previous.end - round(min(shared * SAMPLE_RATE, most))
        else:
            start = previous.end + round(pause * SAMPLE_RATE)
        after = 0 if settings.statistics else round(AFTER_OWN_TURN_S * SAMPLE_RATE)
        own = max((t.end + after for t in turns if t.speaker == speaker), default=0)
        others = max((t.end for t in turns if t is not previous), default=0)
        start = max(start, own, others, turns[-1].start + 1)
    return PlacedTurn(speaker, tuple(Piece(p.utterance, p.start + start) for p in pieces))


def _draw_transition(statistics: TurnStatistics, same: bool, rng: np.random.Generator) -> tuple[bool, float, float]:
    """Draw from a corpus's statistics: whether the next turn overlaps, the pause and the overlap in seconds."""
    if same:
        return False, statistics.draw(rng, statistics.same_pause), 0.0
    if rng.random() < statistics.overlap:
        return True, 0.0, statistics.draw(rng, statistics.overlap_seconds)
    return False, statistics.draw(rng, statistics.other_pause), 0.0
