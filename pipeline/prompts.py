"""Prompts and target texts of the SpeakerLM paper: building and tokenising.

Reading a target back is :mod:`pipeline.evaluation.parse`, which also reads malformed output of models.

A prompt is a list of pieces: text, the audio, a speaker vector. Text is tokenised piece by piece, so that lengths add
up exactly and can be planned from counts of single pieces. ``<start>`` and ``<end>`` are plain text to the tokenizer.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.stages import Task
from shards.errors import ModelError
from shards.sample import SAMPLE_RATE

if TYPE_CHECKING:
    from shards.sample import Segment

SYSTEM = "You are a helpful assistant."
# What no name may hold: line breaks of every kind (CR, U+2028 …), other control characters, halves of surrogate pairs.
NOT_ON_ONE_LINE = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")
# Characters of scripts that are written without spaces: kana, Han, Thai, Lao, Khmer, Burmese.
UNSPACED = "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff"
# Tokens of an answer per second of audio, on top of LEAST_TOKENS; fast Mandarin is about 6, two voices at once 12.
TOKENS_PER_SECOND, LEAST_TOKENS = 25.0, 64
_STARTS_UNSPACED = re.compile(f"[{UNSPACED}]")
_PLACEHOLDER = "\u241fprompt\u241f"  # replaces the user's text while the chat template is applied


class Mode(StrEnum):
    """Task of a prompt, and which speakers it registers."""

    ASR = "asr"  # the words alone
    NO = "no"  # who said what, no speaker registered: spk0, spk1, …
    MATCH = "match"  # exactly the speakers of the audio are registered
    OVER = "over"  # more are registered than speak


def mode_of(name: str) -> Mode | Task:
    """Return the mode or task of a name.

    Raises:
        ValueError: the name is unknown.
    """
    return Task(name) if name in set(Task) else Mode(name)


@dataclass(frozen=True, slots=True)
class TextPiece:
    """Text, tokenised alone."""

    text: str


@dataclass(frozen=True, slots=True)
class AudioPiece:
    """The positions of an audio, or of a slice of it."""

    start: int = 0  # of the slice, in samples at 16 kHz
    length: int | None = None  # in samples; None: to the end
    clip: int = 0  # 0: the sample's own audio; k: the k-th cached clip


@dataclass(frozen=True, slots=True)
class SpeakerPiece:
    """One position: a speaker vector."""

    slot: int  # index into the list of registered speakers


@dataclass(frozen=True, slots=True)
class WordsPiece:
    """Words of a segment as they end a line: a space, the clean text, a newline.

    A plan knows only how many tokens they are, so it counts the same pieces that are tokenised later.
    """

    segment: int  # its number in the clip
    clip: int = 0  # as in AudioPiece


Piece = TextPiece | AudioPiece | SpeakerPiece


class Part(StrEnum):
    """Parts of a target; each has a weight in the loss."""

    TEXT = "text"
    LABEL = "label"  # of a speaker
    TIME = "time"  # of a line
    BOUNDARY = "boundary"  # a time of the next observation


@dataclass(frozen=True, slots=True)
class TargetPiece:
    """Text of a target, tokenised alone."""

    text: str
    part: Part = Part.TEXT


@dataclass(frozen=True, slots=True)
class Turn:
    """The input of the user and the answer of the model. SpeakerLM's samples have one turn."""

    pieces: tuple[Piece | WordsPiece, ...]
    target: tuple[TargetPiece | WordsPiece, ...]


@dataclass(frozen=True, slots=True)
class Prompt:
    """Prompt of one audio."""

    pieces: tuple[Piece, ...]
    waveform: Any  # (S,) float32 array or tensor, 16 kHz, in [-1, 1]
    vectors: Any = None  # (n, dim) vectors of the registered speakers in slot order; None: no speaker is registered


def context_pieces(terms: Sequence[str]) -> list[Piece]:
    """The line of terms that may be said, such as names and jargon; none without terms. Not in the paper.

    A term has the space before it that it has within a text, so that it is the same tokens there.

    Raises:
        ModelError: one text in place of a list of terms: its letters would be the terms.
    """
    if isinstance(terms, str):
        raise ModelError(f"the context is a text, {terms[:40]!r}; give a list of terms, such as ['Zoe Li', 'ZeRO-3']")
    if not terms:
        return []
    pieces: list[Piece] = [TextPiece("Context:")]
    for i, term in enumerate(terms):
        pieces += [TextPiece(",")] * (i > 0) + [TextPiece(term if _STARTS_UNSPACED.match(term) else f" {term}")]
    return [*pieces, TextPiece("\n")]


def prompt_pieces(mode: Mode, names: Sequence[str] = (), context: Sequence[str] = ()) -> list[Piece]:
    """The user's part of the prompt; ``names`` are the registered speakers in the order of their vectors.

    Args:
        context: terms that may be said, see :func:`context_pieces`.

    Raises:
        ModelError: names in a mode without registration, none in one with it, or one name twice; a context that is
            no list.
    """
    if mode in (Mode.ASR, Mode.NO):
        if names:
            raise ModelError(f"mode {mode} registers no speaker, but {len(names)} names are given")
    elif not names:
        raise ModelError(f"mode {mode} needs registered speakers, and no name is given")
    if twice := {n for n in names if names.count(n) > 1}:
        raise ModelError(f"registered twice: {', '.join(sorted(twice))}; names in a prompt must differ")
    pieces = context_pieces(context)
    if names:
        pieces.append(TextPiece("Registered Speaker Embeddings:\n"))
    for slot, name in enumerate(names):
        pieces += [TextPiece(name), TextPiece("<start>"), SpeakerPiece(slot), TextPiece("<end>;\n")]
    question = "Transcribe the speech." if mode is Mode.ASR else "Transcribe by roles."
    return [*pieces, TextPiece(f"{question} <start>"), AudioPiece(), TextPiece("<end>")]


def anonymous_label(number: int) -> str:
    """Label of the ``number``-th speaker (from 0, by first appearance) where no speaker is registered."""
    return f"spk{number}"


def speaker_labels(mode: Mode, segments: Sequence[Segment], names: Mapping[str, str] | None = None) -> dict[str, str]:
    """Speaker id → what the target calls the speaker: a registered name, or ``spkN`` by first appearance.

    Raises:
        ModelError: a speaker has no name, in a mode that registers all speakers.
    """
    speakers = dict.fromkeys(s.speaker for s in segments)
    if mode is Mode.ASR:
        return {}
    if mode is Mode.NO:
        return {speaker: anonymous_label(i) for i, speaker in enumerate(speakers)}
    names = names or {}
    if unnamed := [s for s in speakers if s not in names]:
        raise ModelError(f"mode {mode}: speaker {unnamed[0]} speaks but has no registered name")
    return {speaker: names[speaker] for speaker in speakers}


def answer_tokens(num_samples: int, per_second: float = TOKENS_PER_SECOND, least: int = LEAST_TOKENS) -> int:
    """Return more tokens than the transcript of audio of this length has."""
    return least + math.ceil(per_second * num_samples / SAMPLE_RATE)


def clean_text(text: str) -> str:
    """Normalise transcript text for a target: one line, single spaces."""
    return " ".join(text.split())


def turn_text(text: str, last: bool) -> str:
    """Text after a turn's label and colon, with a newline unless the turn is the target's last.

    The newline belongs to the text's piece because byte-pair tokenizers merge it with punctuation before it: ``.\\n``
    is one token of Qwen2.5, and a model that has read such text expects it.
    """
    return f" {clean_text(text)}" + ("" if last else "\n")


def words_text(text: str) -> str:
    """Words of a segment as they end a line of a dialogue."""
    return f" {clean_text(text)}\n"


def target_pieces(mode: Mode, segments: Sequence[Segment], names: Mapping[str, str] | None = None) -> list[str]:
    """The target as pieces of text, each tokenised alone; the end-of-turn token follows the last.

    Per turn: label, ``":"``, :func:`turn_text`. ASR: the bare texts, joined by spaces, one piece.
    """
    if mode is Mode.ASR:
        return [" ".join(clean_text(s.text) for s in segments)]
    labels = speaker_labels(mode, segments, names)
    pieces: list[str] = []
    for i, segment in enumerate(segments):
        pieces += [labels[segment.speaker], ":", turn_text(segment.text, last=i == len(segments) - 1)]
    return pieces


Layout = list[int | AudioPiece | SpeakerPiece]  # token ids, with audios and speaker vectors in their places
WordsOf = Callable[[WordsPiece], str]


class PromptTokenizer:
    """A Hugging Face tokenizer that encodes pieces, with the model's own chat template around the user's part."""

    def __init__(self, tokenizer: Any, system: str = SYSTEM) -> None:
        """Apply the chat template once and keep the text before and after the user's.

        Raises:
            ModelError: the tokenizer has no chat template or no end-of-turn token.
        """
        if not tokenizer.chat_template:
            raise ModelError(f"tokenizer {tokenizer.name_or_path} has no chat template; use an instruct model's")
        if tokenizer.eos_token_id is None:
            raise ModelError(f"tokenizer {tokenizer.name_or_path} has no end-of-sequence token")
        self.tokenizer, self.system = tokenizer, system
        self._cache: dict[str, tuple[int, ...]] = {}
        before, behind = self._around(system)
        self.prefix = tuple(tokenizer(before, add_special_tokens=False).input_ids)
        self.suffix = tuple(tokenizer(behind, add_special_tokens=False).input_ids)
        self.eos: int = tokenizer.eos_token_id
        self.pad: int = self.eos if tokenizer.pad_token_id is None else tokenizer.pad_token_id

    @classmethod
    def from_folder(cls, folder: Path | str) -> PromptTokenizer:
        """Load the tokenizer of an LLM's folder.

        Raises:
            ModelError: the folder holds no usable tokenizer.
        """
        from transformers import AutoTokenizer

        try:
            return cls(AutoTokenizer.from_pretrained(str(folder)))
        except (OSError, ValueError, KeyError) as e:
            raise ModelError(f"{folder}: no usable tokenizer (tokenizer.json, tokenizer_config.json): {e}") from e

    def _around(self, system: str) -> tuple[str, str]:
        from jinja2.exceptions import TemplateError

        user = {"role": "user", "content": _PLACEHOLDER}
        lines = [{"role": "system", "content": system}, user] if system else [user]
        render = self.tokenizer.apply_chat_template
        try:
            text = render(lines, add_generation_prompt=True, tokenize=False)
        except TemplateError:  # a template without a system role: the line goes before the question, as in the paper
            user["content"] = f"{system} {_PLACEHOLDER}"
            text = render([user], add_generation_prompt=True, tokenize=False)
        parts = text.split(_PLACEHOLDER)
        if len(parts) != 2:
            raise ModelError(f"the chat template of {self.tokenizer.name_or_path} does not hold the user's text once")
        return parts[0], parts[1]

    @cached_property
    def between(self) -> tuple[int, ...]:
        """Token ids between the end token of an answer and the text of the user's next turn.

        Raises:
            ModelError: the chat template does not take two turns of the user.
        """
        from jinja2.exceptions import TemplateError

        turns = [{"role": role, "content": _PLACEHOLDER} for role in ("user", "assistant", "user")]
        try:
            text = self.tokenizer.apply_chat_template(turns, add_generation_prompt=True, tokenize=False)
        except TemplateError as e:
            raise ModelError(f"the chat template of {self.tokenizer.name_or_path} takes one turn only: {e}") from e
        parts = text.split(_PLACEHOLDER)
        if len(parts) != 4:
            raise ModelError(f"the chat template of {self.tokenizer.name_or_path} does not hold each turn's text once")
        end = self.tokenizer.decode([self.eos])
        return tuple(self.tokenizer(parts[2].removeprefix(end), add_special_tokens=False).input_ids)

    @cached_property
    def hash(self) -> str:
        """Hash of everything that determines the tokens of a prompt or a target."""
        parts = [self.tokenizer.backend_tokenizer.to_str(), json.dumps([self.prefix, self.suffix, self.eos])]
        return hashlib.sha256("\n".join(parts).encode()).hexdigest()

    def encode_piece(self, text: str) -> tuple[int, ...]:
        """Token ids of a piece of text; what looks like a special token in it is taken as plain text. Not cached."""
        return tuple(self.tokenizer(text, add_special_tokens=False, split_special_tokens=True).input_ids)

    def encode_common(self, text: str) -> tuple[int, ...]:
        """As :meth:`encode_piece`, cached: for the few pieces that are frequent."""
        if text not in self._cache:
            if len(self._cache) > 100_000:
                self._cache.clear()
            self._cache[text] = self.encode_piece(text)
        return self._cache[text]

    def encode_prompt(self, pieces: Sequence[Piece]) -> list[int | AudioPiece | SpeakerPiece]:
        """The whole prompt: token ids, with the audio and the speaker vectors in their places."""
        layout: list[int | AudioPiece | SpeakerPiece] = list(self.prefix)
        for piece in pieces:
            if isinstance(piece, TextPiece):
                layout += self.encode_common(piece.text)
            else:
                layout.append(piece)
        return layout + list(self.suffix)

    def encode_turn(self, pieces: Sequence[Piece | WordsPiece], first: bool, words: WordsOf) -> Layout:
        """A turn of the user in a dialogue, from where the one before it ends up to where the answer begins.

        Args:
            words: gives the text of a piece of words.
        """
        layout: Layout = list(self.prefix if first else self.between)
        for piece in pieces:
            if isinstance(piece, TextPiece):
                layout += self.encode_common(piece.text)
            elif isinstance(piece, WordsPiece):
                layout += self.encode_piece(words(piece))
            else:
                layout.append(piece)
        return layout + list(self.suffix)

    def encode_target_pieces(self, pieces: Sequence[str]) -> list[tuple[int, ...]]:
        """Token ids of a target piece by piece, without the end-of-turn token."""
        return [self.encode_common(piece) if len(piece) <= 16 else self.encode_piece(piece) for piece in pieces]

    def decode(self, ids: Sequence[int]) -> str:
        """Text of generated ids, without special tokens."""
        return self.tokenizer.decode(list(ids), skip_special_tokens=True).strip()


def chat_ids(tokenizer: Any, messages: Sequence[Mapping[str, str]]) -> list[int]:
    """Return the token ids of a conversation, up to where the assistant answers."""
    text = tokenizer.apply_chat_template(list(messages), add_generation_prompt=True, tokenize=False)
    return list(tokenizer(text, add_special_tokens=False).input_ids)
