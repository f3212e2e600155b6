"""Build the dialogues of Speaker-Reasoner from the reference of a clip (arXiv 2604.03074).

A dialogue is a list of turns. In the first the model hears the whole clip, summarises it and gives the bounds of the
first observation. In each later one it hears that slice, writes its lines and gives the bounds of the next; the last
one ends with the whole transcript. The words of the transcript are pieces by number, so the same function serves a
plan, which knows their number of tokens only, and a batch, which has their text.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from pipeline.dialogue.lines import (
    CENTISECONDS,
    SHORTEST,
    format_time,
    labels,
    number_speakers,
    quantize,
)
from pipeline.dialogue.observations import Observation, observe
from pipeline.dialogue.wording import Wording, wording
from pipeline.prompts import AudioPiece, Part, Piece, TargetPiece, TextPiece, Turn, WordsPiece
from pipeline.stages import Task
from shards.errors import PlanError
from shards.sample import SAMPLE_RATE

_STEP = SAMPLE_RATE // CENTISECONDS  # samples per centisecond
Question = Piece | WordsPiece  # a piece of a user's turn
_NEWLINE = TargetPiece("\n")


class Timed(Protocol):
    """A segment without its words."""

    @property
    def speaker(self) -> str:
        """Global id."""
        ...

    @property
    def start(self) -> float:
        """Seconds from the start of the clip."""
        ...

    @property
    def end(self) -> float:
        """Seconds from the start of the clip."""
        ...


@dataclass(frozen=True, slots=True)
class CacheEntry:
    """Speech of a speaker from earlier in the session, shown before the question."""

    speaker: str  # global id
    start: int  # of the slice in its clip, samples
    length: int  # samples
    segment: int  # number of the segment in its clip
    clip: int  # place in the sample's list of cached clips, from 1


@dataclass(frozen=True, slots=True)
class Clip:
    """Reference of a clip without its words."""

    segments: Sequence[Timed]  # in order of start
    num_samples: int
    language: str
    genders: Mapping[str, str]  # speaker id → gender, without the unknown ones
    cache: Sequence[CacheEntry] = ()

    @property
    def duration(self) -> int:
        """Length in whole centiseconds; a rest of a centisecond counts as one."""
        return -(-self.num_samples // _STEP)


@dataclass(frozen=True, slots=True)
class DialogueRules:
    """Rules of building, from the recipe's ``dialogue`` section."""

    tau: float = 0.8
    max_turns: int = 100  # after the first; more observations are merged
    numbered: bool = False  # each later turn names its observation
    decimals: int = 2  # of times in seconds, 1 or 2


def dialogue(task: Task, clip: Clip, rules: DialogueRules) -> tuple[Turn, ...]:
    """Build the turns of a clip for a task.

    Raises:
        PlanError: the clip is shorter than the shortest line.
    """
    if clip.num_samples < SHORTEST * _STEP:
        raise PlanError(f"audio of {clip.num_samples} samples is shorter than {SHORTEST / CENTISECONDS} s")
    words = wording(clip.language)
    reference = _Reference(clip, rules.decimals)
    known = known_pieces(words, [_entry(entry, reference) for entry in clip.cache])
    if task is Task.REASON:
        return _reasoning(clip, reference, rules, words, known)
    question, target = {
        Task.SINGLE: (words.transcribe, reference.answer()),
        Task.COUNT: (words.count, (TargetPiece(str(len(reference.present))),)),
        Task.GENDERS: (words.genders, reference.roster()),
    }[task]
    return (Turn(opening(known, question), target),)


def _reasoning(
    clip: Clip, reference: _Reference, rules: DialogueRules, words: Wording, known: tuple[Question, ...]
) -> tuple[Turn, ...]:
    observed = observe(reference.spans, rules.tau, rules.max_turns)
    summary = words.summarise(
        [clip.genders.get(s) for s in reference.present], len(reference.spans), overlap_share(reference.spans)
    )
    first = (TargetPiece("<think>"), TargetPiece(summary), TargetPiece("</think>"))
    turns = []
    pieces = opening(known, words.reason)
    target: tuple[TargetPiece | WordsPiece, ...] = first
    for number, seen in enumerate(observed, 1):
        turns.append(Turn(pieces, (*target, *_box(seen))))
        pieces = closer_look((seen.start, seen.end), clip.num_samples, number, words, rules)
        target = reference.thought(seen)
    turns.append(Turn(pieces, (*target, *reference.answer())))
    return tuple(turns)


def opening(known: tuple[Question, ...], question: str) -> tuple[Question, ...]:
    """The user's first turn: entries of a cache, the whole audio, a question."""
    return (*known, *_audio(AudioPiece()), TextPiece(question))


def known_pieces(
    words: Wording, entries: Sequence[tuple[str, AudioPiece, TextPiece | WordsPiece]]
) -> tuple[Question, ...]:
    """Entries of a cache, each a label, its audio and its words."""
    pieces: list[Question] = [TextPiece(words.known)] if entries else []
    for name, audio, spoken in entries:
        pieces += [TextPiece(name), *_audio(audio), TextPiece(":"), spoken]
    return tuple(pieces)


def closer_look(
    span: tuple[int, int], num_samples: int, number: int, words: Wording, rules: DialogueRules
) -> tuple[Question, ...]:
    """The user's turn for an observation, ``number`` from 1; ``span`` in centiseconds."""
    start, stop = span[0] * _STEP, min(span[1] * _STEP, num_samples)
    pieces = _audio(AudioPiece(start, stop - start))
    return (*pieces, TextPiece(words.observation.format(number=number))) if rules.numbered else pieces


def _audio(piece: AudioPiece) -> tuple[Piece, ...]:
    return TextPiece("<start>"), piece, TextPiece("<end>")


def _box(seen: Observation) -> tuple[TargetPiece, ...]:
    start, end = (TargetPiece(format_time(t), Part.BOUNDARY) for t in (seen.start, seen.end))
    return TargetPiece("<box>["), start, TargetPiece(", "), end, TargetPiece("]</box>")


def _entry(entry: CacheEntry, reference: _Reference) -> tuple[str, AudioPiece, WordsPiece]:
    audio = AudioPiece(entry.start, entry.length, entry.clip)
    return reference.labels[entry.speaker], audio, WordsPiece(entry.segment, entry.clip)


class _Reference:
    """Times and labels of a clip's lines."""

    def __init__(self, clip: Clip, decimals: int) -> None:
        self._segments = clip.segments
        self.present = list(dict.fromkeys(s.speaker for s in clip.segments))  # in order of appearance
        numbers = number_speakers(self.present, [entry.speaker for entry in clip.cache])
        self.labels = labels(numbers, clip.genders)
        self.spans = [quantize(s.start, s.end, clip.duration, decimals) for s in clip.segments]

    def line(self, number: int) -> tuple[TargetPiece | WordsPiece, ...]:
        """Pieces of a segment's line, its newline included."""
        start, end = (TargetPiece(format_time(t), Part.TIME) for t in self.spans[number])
        name = TargetPiece(self.labels[self._segments[number].speaker], Part.LABEL)
        return name, TargetPiece(" ["), start, TargetPiece(", "), end, TargetPiece("]:"), WordsPiece(number)

    def thought(self, seen: Observation) -> tuple[TargetPiece | WordsPiece, ...]:
        """The lines of an observation."""
        lines = [piece for number in seen.segments for piece in self.line(number)]
        return TargetPiece("<think>"), _NEWLINE, *lines, TargetPiece("</think>")

    def answer(self) -> tuple[TargetPiece | WordsPiece, ...]:
        """The whole transcript, in order of start."""
        order = sorted(range(len(self.spans)), key=lambda i: (self.spans[i], i))
        lines = [piece for number in order for piece in self.line(number)]
        return TargetPiece("<answer>"), _NEWLINE, *lines, TargetPiece("</answer>")

    def roster(self) -> tuple[TargetPiece, ...]:
        """The labels of those who speak, one per line."""
        names = [TargetPiece(self.labels[s], Part.LABEL) for s in self.present]
        return tuple(piece for name in names for piece in (name, _NEWLINE)) or (TargetPiece("0"),)


def overlap_share(spans: Sequence[tuple[int, int]]) -> float:
    """Return the share of speech time with two or more spans at the same time; 0.0 without speech."""
    edges = sorted([(a, 1) for a, _ in spans] + [(b, -1) for _, b in spans])
    speech = overlap = active = last = 0
    for at, change in edges:
        speech += (at - last) * (active > 0)
        overlap += (at - last) * (active > 1)
        active, last = active + change, at
    return overlap / speech if speech else 0.0
