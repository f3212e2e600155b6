"""Prompts of noise; encoded prompts and targets, for tests of the tokenizer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import chain

import numpy as np

from pipeline.prompts import Mode, Prompt, PromptTokenizer, prompt_pieces, target_pieces
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


def noise_prompt(seconds: float, seed: int = 0) -> Prompt:
    """A prompt of mode no with noise of this length."""
    wave = np.random.default_rng(seed).standard_normal(int(seconds * 16_000)).astype(np.float32) * 0.1
    return Prompt(tuple(prompt_pieces(Mode.NO)), wave)
