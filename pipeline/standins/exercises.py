"""Synthetic prompts for stage 0's LLM: the paper's prompts as if their audio were already understood.

Each audio position represents a word (or a pause) said by a voice. Three kinds of exercises, easy to hard:

- ``read``: a registration alone. At each speaker vector, say the name that stands before it.
- ``match``: a registration, and 24 audio positions, each of a drawn speaker and word. At each, say who speaks.
- ``talk``: a whole conversation in one of the four modes, to be written out; the current speaker and the current
  audio are asked too.

A small Transformer does not find the two steps of looking a name up (carry the name to the vector, then match the
voice with the vector) when only the name in the transcript is asked of it; asked one after the other it takes a minute.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial

from pipeline.prompts import (
    AudioPiece,
    Mode,
    PromptTokenizer,
    SpeakerPiece,
    anonymous_label,
    prompt_pieces,
    target_pieces,
)
from pipeline.standins.words import NAMES
from shards.sample import Segment

MOST_VOICES = 10  # of one made-up conversation, registered ones included
MATCHES = 24  # audio positions of a ``match`` exercise
READ_UNTIL, MATCH_UNTIL, FEW_UNTIL = 0.02, 0.13, 0.35  # parts of the training
PAUSE = -1  # in place of a word's token


@dataclass(frozen=True)
class Exercise:
    """Settings of a text."""

    kind: str  # "read", "match" or "talk"
    mode: Mode
    count: int = 1  # texts in an update
    few: bool = False  # a conversation of one or two turns
    turns: int = 4  # of a conversation, at most
    words: int = 3  # of a turn, at most; two more where one voice speaks alone
    noise: float = 0.3  # length of what is added to a voice's unit vector, each time that it is heard


@dataclass
class Text:
    """One training example of the LLM: a prompt with made-up audio, and what to write."""

    ids: list[int] = field(default_factory=list)
    target_from: int = 0
    audio: list[tuple[int, int, int]] = field(default_factory=list)  # (position, token or PAUSE, voice)
    registered: list[tuple[int, int]] = field(default_factory=list)  # (position, voice)
    asked_vectors: list[tuple[int, int]] = field(default_factory=list)  # (position of a speaker vector, its name)
    asked_audio: list[tuple[int, int]] = field(default_factory=list)  # (audio position, token that says who speaks)
    pointed: list[tuple[int, int, int]] = field(default_factory=list)  # (position, audio from, to) of what it writes
    hidden: list[int] = field(default_factory=list)  # the registration's other positions: names, <start>, <end>
    seen_from: int = 0  # the first position that is not shown the hidden ones


def draw_exercises(
    rng: random.Random, progress: float, turns: int = 4, words: int = 3, no_share: float = 1 / 3
) -> list[Exercise]:
    """Draw the exercises of one update at this part of the training; earlier kinds are still practised.

    ``no_share``: share of the updates with full conversations that have no registration.
    """
    talk = partial(Exercise, "talk", turns=turns, words=words)
    if progress < READ_UNTIL:
        return [Exercise("read", Mode.MATCH, 24)]
    if progress < MATCH_UNTIL:
        return [Exercise("match", Mode.MATCH, 16), talk(Mode.ASR, 16)]
    few = progress < FEW_UNTIL
    if few:
        mode = rng.choice([Mode.NO, Mode.MATCH, Mode.MATCH])
    else:
        mode = Mode.NO if rng.random() < no_share else rng.choice([Mode.MATCH, Mode.OVER])
    beside = [talk(Mode.ASR, 4, noise=0.6), Exercise("match", Mode.MATCH, 3, noise=0.6)]
    return [talk(mode, 12, few, noise=0.6), *beside]


def make_text(rng: random.Random, tokenizer: PromptTokenizer, words: dict[str, list[str]], exercise: Exercise) -> Text:
    """A text of the exercise, with drawn speakers and words."""
    kind, mode = exercise.kind, exercise.mode
    if mode is Mode.ASR:
        people = turns = 1
    elif exercise.few and kind == "talk":
        people = turns = rng.randint(1, 2)
    else:
        people = rng.randint(2, 4)
        turns = rng.randint(people, max(people, exercise.turns))
    segments = _turns(rng, words, people, turns, exercise.words + 2 * (mode is Mode.ASR))
    extra = rng.randint(1, MOST_VOICES - people) if mode is Mode.OVER else 0
    registered = list(range(people + extra)) if mode in (Mode.MATCH, Mode.OVER) else []
    rng.shuffle(registered)
    names = rng.sample(NAMES, len(registered))
    name_of = {str(who): name for who, name in zip(registered, names, strict=True)}
    text, places = Text(), []
    for item in tokenizer.encode_prompt(prompt_pieces(mode, names)):
        if isinstance(item, SpeakerPiece):
            text.asked_vectors.append((len(text.ids), tokenizer.encode_common(names[item.slot])[0]))
            text.registered.append((len(text.ids), registered[item.slot]))
            text.ids.append(0)
        elif isinstance(item, AudioPiece):
            if kind == "match":
                segments = _turns(rng, words, people, MATCHES, 1)
            if kind != "read":
                places = _append_audio(rng, tokenizer, mode, segments, name_of, text, spread=kind == "talk")
        else:
            text.ids.append(item)
    _hide_registration(tokenizer, text)
    text.target_from = len(text.ids)
    if kind == "talk":
        _append_target(tokenizer, mode, segments, name_of, text, places)
    return text


def _turns(rng: random.Random, words: dict[str, list[str]], people: int, turns: int, most_words: int) -> list[Segment]:
    """Each person has one language, and speaks at least once where the turns suffice."""
    languages = [rng.choice(list(words)) for _ in range(people)]
    out = []
    for i in range(turns):
        who = i if i < people else rng.randrange(people)
        said = [rng.choice(words[languages[who]]) for _ in range(rng.randint(1, most_words))]
        out.append(Segment(str(who), float(i), i + 1.0, ("" if languages[who] == "zh" else " ").join(said)))
    if turns == MATCHES:
        rng.shuffle(out)
    return out


def _append_audio(
    rng: random.Random,
    tokenizer: PromptTokenizer,
    mode: Mode,
    segments: Sequence[Segment],
    name_of: dict[str, str],
    text: Text,
    spread: bool,
) -> list[list[tuple[int, int]]]:
    """Positions of every word; ``spread``: 2–5 a word, and pauses. Who speaks is asked where somebody does.

    Returns:
        Per segment, the first and the last + 1 position of every word.
    """
    labels = name_of or {s: anonymous_label(i) for i, s in enumerate(dict.fromkeys(s.speaker for s in segments))}
    places: list[list[tuple[int, int]]] = []
    for segment in segments:
        who = tokenizer.encode_common(labels[segment.speaker])[-1]
        said = tokenizer.encode_common(" " + segment.text)
        places.append([])
        for token in said if spread else said[:1]:
            first = len(text.ids)
            for _ in range(rng.randint(2, 5) if spread else 1):
                if mode is not Mode.ASR:
                    text.asked_audio.append((len(text.ids), who))
                text.audio.append((len(text.ids), token, int(segment.speaker)))
                text.ids.append(0)
            places[-1].append((first, len(text.ids)))
        for _ in range(rng.randint(0, 3) if spread else 0):
            text.audio.append((len(text.ids), PAUSE, int(segment.speaker)))
            text.ids.append(0)
    return places


def _append_target(
    tokenizer: PromptTokenizer,
    mode: Mode,
    segments: Sequence[Segment],
    name_of: dict[str, str],
    text: Text,
    places: list[list[tuple[int, int]]],
) -> None:
    """What to write, and for every word of it where it is heard; a speaker's label is heard where its turn begins."""
    pieces = tokenizer.encode_target_pieces(target_pieces(mode, segments, name_of))
    turn = -1
    for i, piece in enumerate(pieces):
        heard: list[tuple[int, int]] = []
        if mode is Mode.ASR:
            heard = [span for spans in places for span in spans]
        elif i % 3 == 0:  # label, ":", words
            turn += 1
            heard = places[turn][:1] * len(piece)
        elif i % 3 == 2:
            heard = places[turn]
        text.pointed += [(len(text.ids) - 1 + n, *span) for n, span in enumerate(heard)]
        text.ids += piece
    text.ids.append(tokenizer.eos)


def _hide_registration(tokenizer: PromptTokenizer, text: Text) -> None:
    """Everything of the registration but the vectors themselves: a name can then be found only by its vector."""
    if not text.registered:
        return
    vectors = [position for position, _ in text.registered]
    before = 1 + len(tokenizer.encode_common("<start>"))
    text.seen_from = vectors[-1] + 1 + len(tokenizer.encode_common("<end>;\n"))
    text.hidden = [p for p in range(vectors[0] - before, text.seen_from) if p not in vectors]
