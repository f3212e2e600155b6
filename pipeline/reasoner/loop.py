"""The inference loop of Speaker-Reasoner: ask, check, try again, look closer, until the transcript is there.

Guards and the schedule of attempts are those of the public inference script (arXiv 2604.03074). Where all attempts of a
turn fail, the script returns nothing. Here a dialogue always returns the lines that were understood, and why it ended.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from enum import Enum
from typing import Protocol

import numpy as np

from pipeline.dialogue.build import DialogueRules, Question, closer_look, known_pieces, opening
from pipeline.dialogue.lines import CENTISECONDS, SHORTEST, Line
from pipeline.dialogue.reply import PAST_END, Reply, answered_lines, faults, read_reply
from pipeline.dialogue.wording import wording
from pipeline.prompts import AudioPiece, TextPiece, words_text
from pipeline.stages import Task
from shards.errors import ConfigError
from shards.sample import SAMPLE_RATE


@dataclass(frozen=True, slots=True)
class Sampling:
    """Settings of sampling one reply."""

    temperature: float
    top_p: float
    top_k: int  # 0: off
    seed: int  # of the attempt


def sampling(attempt: int) -> Sampling:
    """Return the settings of an attempt, from 0: nearly greedy three times, then ever warmer."""
    if attempt < 3:
        return Sampling(0.01, 0.1, 1, attempt)
    return Sampling(min(0.1 + 0.1 * ((attempt - 3) // 3), 1.0), 0.9, 0, attempt)


@dataclass(frozen=True, slots=True)
class KnownSpeaker:
    """Speech of a known speaker, shown before the question."""

    label: str
    audio: np.ndarray  # (S,) float32, 16 kHz
    text: str


@dataclass(frozen=True, slots=True)
class ReasonerClip:
    """The audio of one dialogue."""

    key: str
    audio: np.ndarray  # (S,) float32, 16 kHz
    language: str
    known: tuple[KnownSpeaker, ...] = ()
    draw: str | None = None  # names the random numbers of warm attempts; None: the key


@dataclass(frozen=True, slots=True)
class Request:
    """A dialogue that waits for the model's reply."""

    clip: ReasonerClip
    questions: tuple[tuple[Question, ...], ...]  # of all turns; the last one is open
    replies: tuple[str, ...]  # of the turns before it
    sampling: Sampling
    max_new_tokens: int


class Unfinished(Enum):
    """Mark of a reply that is still being written: the same request continues it."""

    REPLY = "reply"


class Engine(Protocol):
    """A model that answers dialogues."""

    def answer(self, requests: Sequence[Request]) -> Sequence[str | Unfinished | None]:
        """Return a reply for each request; None: the dialogue has no room left in the model's context."""
        ...

    def release(self, key: str) -> None:
        """Drop what is kept for a dialogue that has ended."""
        ...


@dataclass(frozen=True, slots=True)
class LoopLimits:
    """Bounds of the loop; the defaults are the public script's."""

    attempts: int = 50  # of one turn
    turns: int = 100
    max_new_tokens: int = 8192  # of one turn
    batch: int = 8  # dialogues that are open at the same time


ANSWERED = "answer"
_ENDS = {
    "attempts": "no valid reply in {attempts} attempts",
    "turns": "no answer in {turns} turns",
    "context": "the model's context is full",
    "short": "the audio is shorter than a line can be",
}


@dataclass(frozen=True, slots=True)
class Outcome:
    """The transcript of a clip, and how it came about."""

    key: str
    lines: tuple[Line, ...]  # in order of start
    reason: str  # ANSWERED, or why the dialogue ended without an answer
    turns: int
    attempts: int  # over all turns: as many as turns if every first reply was valid
    at_once: int  # turns whose first reply was valid
    covered: float  # seconds from the start up to which observations were given
    repairs: tuple[str, ...]  # what had to be repaired in replies that were taken
    rejected: tuple[str, ...]  # faults of replies that were not
    replies: tuple[str, ...]  # the taken ones

    @property
    def complete(self) -> bool:
        """Whether the model finished."""
        return self.reason == ANSWERED


@dataclass
class _Dialogue:
    """State of an open dialogue."""

    clip: ReasonerClip
    task: Task
    duration: int  # centiseconds
    questions: list[tuple[Question, ...]]
    replies: list[str] = field(default_factory=list)
    thoughts: list[Line] = field(default_factory=list)
    attempt: int = 0
    attempts: int = 0
    at_once: int = 0
    previous: int = 0  # start of the last box
    covered: int = 0
    repairs: list[str] = field(default_factory=list)
    rejected: list[str] = field(default_factory=list)
    last: Reply | None = None  # the last one that was rejected


class OpenDialogues:
    """Dialogues that are open at the same time, each at its own turn."""

    def __init__(
        self,
        engine: Engine,
        rules: DialogueRules | None = None,
        limits: LoopLimits | None = None,
        task: Task = Task.REASON,
    ) -> None:
        """Start without dialogues; arguments as of :func:`reason`."""
        if task not in (Task.REASON, Task.SINGLE):
            raise ConfigError(f"task {task} has no transcript; choose {Task.REASON} or {Task.SINGLE}")
        self._engine, self._task = engine, task
        self._rules, self._limits = rules or DialogueRules(), limits or LoopLimits()
        self._active: dict[str, _Dialogue] = {}
        self._short: list[Outcome] = []  # of clips that cannot hold a line

    @property
    def room(self) -> int:
        """Return how many more may be opened."""
        return self._limits.batch - len(self._active)

    def open(self, clip: ReasonerClip) -> None:
        """Open a dialogue; the next :meth:`step` asks its first question."""
        if clip.key in self._active:
            raise ConfigError(f"two clips have the key {clip.key}; give each its own")
        dialogue = _open(clip, self._task)
        if dialogue.duration < SHORTEST:
            self._short.append(_end(dialogue, "short", self._limits))
        else:
            self._active[clip.key] = dialogue

    def step(self) -> list[Outcome]:
        """Get a reply in each open dialogue; return the outcomes of those that end, in the order they were opened."""
        ended, self._short = self._short, []
        if not self._active:
            return ended
        replies = self._engine.answer([_request(d, self._limits) for d in self._active.values()])
        for (key, dialogue), text in zip(list(self._active.items()), replies, strict=True):
            if isinstance(text, Unfinished):
                continue
            outcome = _take(dialogue, text, self._rules, self._limits)
            if outcome is not None:
                ended.append(outcome)
                self.close(key)
        return ended

    def close(self, key: str) -> None:
        """Drop an open dialogue, and what the engine keeps of it."""
        self._active.pop(key, None)
        self._engine.release(key)


def reason(
    clips: Sequence[ReasonerClip],
    engine: Engine,
    rules: DialogueRules | None = None,
    limits: LoopLimits | None = None,
    task: Task = Task.REASON,
) -> list[Outcome]:
    """Transcribe clips, several dialogues at a time, each at its own turn; outcomes are in the order of the clips.

    Args:
        task: REASON, or SINGLE for the transcript in one turn.

    Raises:
        ConfigError: two clips have the same key, by which engines keep what they know of a dialogue; or the task has
            no transcript.
    """
    if twice := [key for key, times in Counter(clip.key for clip in clips).items() if times > 1]:
        raise ConfigError(f"two clips have the key {twice[0]}; give each its own")
    dialogues = OpenDialogues(engine, rules, limits, task)
    waiting = deque(clips)
    outcomes: dict[str, Outcome] = {}
    while len(outcomes) < len(clips):
        while waiting and dialogues.room:
            dialogues.open(waiting.popleft())
        outcomes |= {outcome.key: outcome for outcome in dialogues.step()}
    return [outcomes[clip.key] for clip in clips]


def numbered_rules(numbered: bool) -> DialogueRules:
    """Return the rules of a dialogue whose later turns name their observation, or have audio alone."""
    return DialogueRules(numbered=numbered)


def _open(clip: ReasonerClip, task: Task) -> _Dialogue:
    words = wording(clip.language)
    entries = [
        (known.label, AudioPiece(0, len(known.audio), i), TextPiece(words_text(known.text)))
        for i, known in enumerate(clip.known, 1)
    ]
    duration = -(-len(clip.audio) * CENTISECONDS // SAMPLE_RATE)
    question = words.reason if task is Task.REASON else words.transcribe
    return _Dialogue(clip, task, duration, [opening(known_pieces(words, entries), question)])


def _request(dialogue: _Dialogue, limits: LoopLimits) -> Request:
    return Request(
        dialogue.clip,
        tuple(dialogue.questions),
        tuple(dialogue.replies),
        sampling(dialogue.attempt),
        limits.max_new_tokens,
    )


def _take(dialogue: _Dialogue, text: str | None, rules: DialogueRules, limits: LoopLimits) -> Outcome | None:
    """Take a reply into a dialogue; returns its outcome if that ends it."""
    if text is None:
        return _end(dialogue, "context", limits)
    first = not dialogue.replies
    reply = read_reply(text)
    dialogue.attempts += 1
    found = faults(reply, text, dialogue.duration, dialogue.previous, first)
    if dialogue.task is Task.SINGLE and not reply.finished:
        found.append("no <answer> in the only turn")
    if found:
        dialogue.rejected += found
        dialogue.last = reply
        dialogue.attempt += 1
        return _end(dialogue, "attempts", limits) if dialogue.attempt >= limits.attempts else None
    dialogue.at_once += dialogue.attempt == 0
    dialogue.attempt, dialogue.last = 0, None
    dialogue.replies.append(text)
    dialogue.repairs += reply.repairs
    if reply.finished:
        return _end(dialogue, ANSWERED, limits, reply)
    if not first:
        dialogue.thoughts += reply.lines
    assert reply.box is not None  # the guards saw to it
    dialogue.previous, dialogue.covered = reply.box[0], max(dialogue.covered, reply.box[1])
    if len(dialogue.replies) >= limits.turns:
        return _end(dialogue, "turns", limits)
    number = len(dialogue.replies)
    words = wording(dialogue.clip.language)
    start = min(reply.box[0], dialogue.duration - SHORTEST)  # a box may begin where the audio ends
    span = (start, max(reply.box[1], start + SHORTEST))
    dialogue.questions.append(closer_look(span, len(dialogue.clip.audio), number, words, rules))
    return None


def _end(dialogue: _Dialogue, why: str, limits: LoopLimits, answer: Reply | None = None) -> Outcome:
    """Return the outcome: the answer's lines, or those of the observations that were understood."""
    repairs = list(dialogue.repairs)
    if answer is not None:
        lines, found = answered_lines(answer, dialogue.thoughts)
        repairs += found
    else:
        lines = list(dialogue.thoughts)
        if dialogue.last is not None:  # what the last rejected reply says of this observation, where it is possible
            lines += [line for line in dialogue.last.lines if _possible(line, dialogue.duration)]
    lines = sorted((_clamped(line, dialogue.duration) for line in lines), key=lambda line: (line.start, line.end))
    covered = dialogue.duration if why == ANSWERED else min(dialogue.covered, dialogue.duration)
    return Outcome(
        key=dialogue.clip.key,
        lines=tuple(lines),
        reason=why if why == ANSWERED else _ENDS[why].format(attempts=limits.attempts, turns=limits.turns),
        turns=len(dialogue.replies),
        attempts=dialogue.attempts,
        at_once=dialogue.at_once,
        covered=covered / CENTISECONDS,
        repairs=tuple(dict.fromkeys(repairs)),
        rejected=tuple(dialogue.rejected),
        replies=tuple(dialogue.replies),
    )


def _possible(line: Line, duration: int) -> bool:
    return line.start <= duration and line.end <= duration + PAST_END and line.end - line.start >= SHORTEST


def _clamped(line: Line, duration: int) -> Line:
    """The line inside the audio, its end not before its start."""
    start = min(line.start, duration)
    return replace(line, start=start, end=max(start, min(line.end, duration)))
