"""Speaker probes: targets at audio positions that name the speaker, in addition to the transcript's tokens.

A transcript names a speaker once per turn, which is little to learn the matching of voices with registered vectors
from. With ``data.speaker_questions`` = n, up to n positions of every turn are probed: the LLM's output there
has to be the first token of the speaker's name (its last, the number, for ``spk0``). The answers count as targets of
weight 1; nothing is written into the input, so that decoding does not change. Not in the paper; 0 turns it off.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from pipeline.frames import HOP_SAMPLES, LFR_SHIFT
from pipeline.prompts import Mode, PromptTokenizer
from shards.sample import SAMPLE_RATE, Segment


def probe_positions(
    segments: Sequence[Segment], positions: int, stride: int, per_turn: int, speed: float = 1.0
) -> list[tuple[int, str]]:
    """(audio position, speaker): up to ``per_turn`` a turn, evenly over those in which that one person speaks alone.

    Args:
        segments: times in seconds of the unchanged audio.
        positions: audio positions of the sample.
        stride: encoder frames a position.
        per_turn: the most of one turn.
        speed: at which the audio is played.
    """
    seconds = LFR_SHIFT * HOP_SAMPLES * stride / SAMPLE_RATE * speed  # of unchanged audio, a position
    voices = np.zeros(positions, np.int64)
    spans = []
    for segment in segments:
        touched = slice(int(segment.start / seconds), math.ceil(segment.end / seconds))
        voices[touched] += 1
        spans.append(range(math.ceil(segment.start / seconds), min(positions, int(segment.end / seconds))))
    out = []
    for segment, span in zip(segments, spans, strict=True):
        alone = [p for p in span if voices[p] == 1]
        chosen = range(len(alone)) if len(alone) <= per_turn else np.linspace(0, len(alone) - 1, per_turn).round()
        out += [(alone[int(i)], segment.speaker) for i in chosen]
    return out


def answer_token(tokenizer: PromptTokenizer, mode: Mode, label: str) -> int:
    """The token that distinguishes this speaker from the others."""
    return tokenizer.encode_common(label)[-1 if mode is Mode.NO else 0]
