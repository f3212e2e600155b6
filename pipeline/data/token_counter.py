"""Tokens of prompts and targets, from counts of their pieces."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from pipeline.data.dialogue_plan import TurnFrame
from pipeline.data.index_rows import IndexRow
from pipeline.data.lengths import Tokenizer
from pipeline.frames import Stride
from pipeline.prompts import Mode, SpeakerPiece, TextPiece, anonymous_label, prompt_pieces


class TokenCounter:
    """Tokens of prompts and targets. Text is tokenised piece by piece, so lengths of pieces add up exactly."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._encode = tokenizer.encode_common
        self._tokenizer = tokenizer
        self._template = len(tokenizer.prefix) + len(tokenizer.suffix)

    def text(self, text: str) -> int:
        """Tokens of one piece of text."""
        return len(self._encode(text))

    def frame(self, num_samples: int, stride: Stride) -> TurnFrame:
        """Tokens around the turns of a dialogue over an audio; ``stride`` of the audio projector."""
        t = self._tokenizer
        return TurnFrame(len(t.prefix), len(t.between), len(t.suffix), num_samples, stride)

    def prompt(self, mode: Mode, names: Sequence[str], audio: int, context: Sequence[str] = ()) -> int:
        """Positions of the prompt: chat template, text, one a registered speaker, ``audio`` for the audio.

        Args:
            context: terms of the line of context.
        """
        total = self._template
        for piece in prompt_pieces(mode, names, context):
            match piece:
                case TextPiece():
                    total += self.text(piece.text)
                case SpeakerPiece():
                    total += 1
                case _:
                    total += audio
        return total

    def target(self, mode: Mode, row: IndexRow, names: Mapping[str, str]) -> int:
        """Tokens of the target with its end-of-turn token; ``names``: speaker id → registered name."""
        if mode is Mode.ASR:
            return row.asr_tokens + 1
        labels = [anonymous_label(i) if mode is Mode.NO else names[s] for i, s in enumerate(row.speakers)]
        heads = sum(n * (self.text(label) + self.text(":")) for label, n in zip(labels, row.turns, strict=True))
        return heads + row.text_tokens + 1
