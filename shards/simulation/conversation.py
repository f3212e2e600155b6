"""Draws who says what, and when, in a simulated conversation: everything but the sound.

After the simulated conversations of Landini et al. (2022, arXiv 2204.00890): whole utterances of single speakers are
put on one time line; between turns lies a pause, or the next speaker begins before the last has ended. Pauses and
overlaps come from the statistics of a real corpus (:mod:`shards.simulation.turn_statistics`) or from exponential
distributions; without pause and overlap it is plain concatenation. A turn is one or more utterances of one speaker with
short pauses between them. A layout is a pure function of (sources, settings, seed, number).
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
FITTING = 8  # turns drawn for what is left of a conversation before it is left silent
AFTER_OWN_TURN_S = 0.1  # a speaker's next turn begins at least this long after the last one ended
SKIP_SPEAKER = 0.3  # share of speakers left out of every round after the first
Fingerprint = tuple[tuple[str, str], ...]  # (speaker, text) in order of start time


@dataclass(frozen=True)
class Piece:
    """An utterance with its place on the time line, in samples."""

    utterance: SourceUtterance
    start: int


@dataclass(frozen=True)
class PlacedTurn:
    """Pieces of one speaker, one after the other."""

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
    """One conversation before it is rendered."""

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
        """The language of all, or ``mul``."""
        languages = {p.utterance.language for t in self.turns for p in t.pieces}
        return languages.pop() if len(languages) == 1 else "mul"

    @property
    def fingerprint(self) -> Fingerprint:
        return tuple((t.speaker, t.text) for t in self.turns)


def draw(
    sources: UtterancePool, settings: SimulationSettings, seed: int, number: int, avoid: Collection[Fingerprint] = ()
) -> Layout:
    """Conversation `number`: attempts are repeated until one fits the limit of length and is not in `avoid`.

    Raises:
        ConfigError: none of 200 attempts fits.
    """
    rng = np.random.default_rng([seed, number])
    for _ in range(ATTEMPTS):
        layout = _attempt(sources, settings, rng, number)
        if layout is not None and layout.fingerprint not in avoid:
            return layout
    raise ConfigError(
        f"conversation {number}: none of {ATTEMPTS} drawn conversations is at most {settings.seconds[1]:g} s long"
        + (" and different from those of the other sets" if avoid else "")
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
    """Speakers of the turns, without end: rounds in random order.

    Nobody follows himself unless alone, or with probability `same` once everybody has spoken.
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
    """Pieces from time 0 on."""
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
    """Put a drawn turn after, or partly over, the turns before it; never more than two speak at once."""
    speaker = pieces[0].utterance.speaker
    length = pieces[-1].start + pieces[-1].utterance.num_samples
    overlaps, pause = rng.random() < settings.overlap, rng.exponential(settings.pause)
    shared = rng.exponential(settings.overlap_seconds)
    if not turns:
        start = round(rng.uniform(*settings.edge) * SAMPLE_RATE)
    else:
        previous = max(turns, key=lambda t: t.end)
        if settings.statistics is not None:
            overlaps, pause, shared = _real(settings.statistics, previous.speaker == speaker, rng)
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


def _real(statistics: TurnStatistics, same: bool, rng: np.random.Generator) -> tuple[bool, float, float]:
    """Whether the next turn overlaps, its pause and its overlap in seconds, as in a real corpus."""
    if same:
        return False, statistics.draw(rng, statistics.same_pause), 0.0
    if rng.random() < statistics.overlap:
        return True, 0.0, statistics.draw(rng, statistics.overlap_seconds)
    return False, statistics.draw(rng, statistics.other_pause), 0.0
