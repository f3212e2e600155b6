"""Prompts to the tensors of :meth:`SpeakerLMForConditionalGeneration.generate`, and its answers back to text."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from pipeline.frames import audio_positions
from pipeline.prompts import AudioPiece, Prompt, PromptTokenizer, SpeakerPiece
from shards.errors import AudioError, SpeakerError


class SpeakerLMProcessor:
    """Tokenizes, pads on the left, and says where audio and speakers go."""

    def __init__(self, tokenizer: PromptTokenizer, stride: int, speaker_dim: int) -> None:
        """Take the model's stride (``config.projector["stride"]``) and width of speaker vectors."""
        self.tokenizer, self.stride, self.speaker_dim = tokenizer, stride, speaker_dim

    def __call__(self, prompts: Sequence[Prompt]) -> dict[str, Tensor]:
        """Inputs of ``generate`` for a batch; registrations may differ from prompt to prompt.

        Raises:
            AudioError: an audio is empty, too short or not finite.
            SpeakerError: vectors do not fit the prompt or the model.
        """
        waves = [_waveform(p, self.stride) for p in prompts]
        vectors = [self._vectors(p) for p in prompts]
        rows = [self._row(p, len(w)) for p, w in zip(prompts, waves, strict=True)]
        longest = max(len(r) for r in rows)
        ids = torch.full((len(rows), longest), self.tokenizer.pad)
        mask = torch.zeros(len(rows), longest, dtype=torch.long)
        audio, speakers = [], []
        for i, row in enumerate(rows):
            first = longest - len(row)
            mask[i, first:] = 1
            slots = {}
            for at, item in enumerate(row, start=first):
                if isinstance(item, AudioPiece):
                    audio.append(i * longest + at)
                elif isinstance(item, SpeakerPiece):
                    slots[item.slot] = i * longest + at
                else:
                    ids[i, at] = item
            speakers += [slots[slot] for slot in sorted(slots)]
        some = torch.cat(vectors)
        return {
            "waveforms": torch.nn.utils.rnn.pad_sequence(waves, batch_first=True),
            "waveform_lengths": torch.tensor([len(w) for w in waves]),
            "input_ids": ids,
            "attention_mask": mask,
            "audio_index": torch.tensor(audio, dtype=torch.long),
            "speaker_vectors": some if len(some) else torch.zeros(1, self.speaker_dim),
            "speaker_index": torch.tensor(speakers, dtype=torch.long),
        }

    def decode(self, ids: Tensor) -> list[str]:
        """Generated ids (B, new) to texts; what follows the end-of-turn token is dropped."""
        texts = []
        for row in ids.tolist():
            end = row.index(self.tokenizer.eos) if self.tokenizer.eos in row else len(row)
            texts.append(self.tokenizer.decode(row[:end]))
        return texts

    def _row(self, prompt: Prompt, num_samples: int) -> list[int | AudioPiece | SpeakerPiece]:
        """A prompt's positions: the audio piece as often as it takes positions."""
        row: list[int | AudioPiece | SpeakerPiece] = []
        for item in self.tokenizer.encode_prompt(prompt.pieces):
            times = audio_positions(num_samples, self.stride) if isinstance(item, AudioPiece) else 1
            row += [item] * times
        return row

    def _vectors(self, prompt: Prompt) -> Tensor:
        """(n, dim) vectors of a prompt, one per speaker piece, in the order of slots."""
        slots = sorted(p.slot for p in prompt.pieces if isinstance(p, SpeakerPiece))
        if not slots:
            return torch.zeros(0, self.speaker_dim)
        vectors = torch.as_tensor(np.asarray(prompt.vectors), dtype=torch.float32)
        if vectors.ndim != 2 or vectors.shape[1] != self.speaker_dim or slots != list(range(len(vectors))):
            raise SpeakerError(
                f"{len(slots)} registered speakers with vectors of shape {tuple(vectors.shape)}; "
                f"the model takes one vector of {self.speaker_dim} for each: was another extractor used?"
            )
        if not vectors.isfinite().all():
            raise SpeakerError("a registered speaker's vector is not finite")
        return vectors


def _waveform(prompt: Prompt, stride: int) -> Tensor:
    wave = torch.as_tensor(prompt.waveform, dtype=torch.float32)
    if wave.ndim != 1 or audio_positions(len(wave), stride) < 1:
        raise AudioError(f"audio of shape {tuple(wave.shape)}; one channel of at least 400 samples (25 ms) is needed")
    if not wave.isfinite().all():
        raise AudioError("the audio holds values that are not finite")
    return wave
