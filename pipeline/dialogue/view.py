"""A sample's dialogue as text, for ``speakerlm-shards view --show dialogue``, which finds it by its entry point."""

from __future__ import annotations

from collections.abc import Iterator

from pipeline.dialogue.build import Clip, DialogueRules, dialogue
from pipeline.prompts import AudioPiece, Piece, TargetPiece, TextPiece, WordsPiece, turn_text
from pipeline.stages import Task
from shards.sample import SAMPLE_RATE, Sample

TITLE = "Speaker-Reasoner's dialogue"


def show(sample: Sample) -> Iterator[tuple[str, str]]:
    """Yield who speaks and what, turn by turn; audio is written as ``<audio 1.50–3.25 s>``.

    Raises:
        PlanError: the audio is too short for a dialogue.
    """
    clip = Clip(sample.segments, sample.num_samples, sample.language, sample.genders)
    for turn in dialogue(Task.REASON, clip, DialogueRules()):
        yield "user", "".join(_text(piece, sample) for piece in turn.pieces)
        yield "model", "".join(_text(piece, sample) for piece in turn.target)


def _text(piece: Piece | WordsPiece | TargetPiece, sample: Sample) -> str:
    match piece:
        case TextPiece(text) | TargetPiece(text):
            return text
        case WordsPiece(segment):
            return turn_text(sample.segments[segment].text, last=False)
        case AudioPiece(start, length):
            end = sample.num_samples if length is None else start + length
            return f"<audio {start / SAMPLE_RATE:.2f}–{end / SAMPLE_RATE:.2f} s>"
    raise AssertionError(f"a dialogue has no {type(piece).__name__}")
