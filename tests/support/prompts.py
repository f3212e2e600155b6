"""Encoded prompts and targets, for tests of the tokenizer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import chain

from pipeline.prompts import Mode, PromptTokenizer, prompt_pieces, target_pieces
from shards.sample import Segment


def encode_target(tokenizer: PromptTokenizer, pieces: Sequence[str]) -> list[int]:
    """Token ids of a target, ended by the end-of-turn token."""
    return [*chain.from_iterable(tokenizer.encode_target_pieces(pieces)), tokenizer.eos]


def prompt_length(tokenizer: PromptTokenizer, mode: Mode, names: Sequence[str] = ()) -> int:
    """LLM positions of a prompt without its audio."""
    return len(tokenizer.encode_prompt(prompt_pieces(mode, names))) - 1


def target_turns(mode: Mode, segments: Sequence[Segment], names: Mapping[str, str] | None = None) -> list[str]:
    """Lines of a target."""
    return "".join(target_pieces(mode, segments, names)).split("\n")
