"""Audio and registered speakers to the tensors that the model generates from, and its answers back to text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import BatchFeature, ProcessorMixin

from pipeline.frames import audio_positions
from pipeline.prompts import SYSTEM, AudioPiece, Mode, Prompt, PromptTokenizer, SpeakerPiece, prompt_pieces
from shards.errors import AudioError, ConfigError, SpeakerError
from shards.sample import SAMPLE_RATE


class SpeakerLMProcessor(ProcessorMixin):
    """Tokenize prompts, pad on the left, and mark the positions of audio and speakers."""

    auto_map: dict[str, str]  # set where the processor is saved with its code

    def __init__(
        self,
        tokenizer: Any,
        stride: int = 2,
        speaker_dim: int = 192,
        extractor: str = "",
        system: str = SYSTEM,
        enrolment: dict[str, Any] | None = None,
    ) -> None:
        """Take the tokenizer and the settings of prompts.

        Args:
            tokenizer: the LLM's, of transformers or already wrapped as a PromptTokenizer.
            stride: of the model's audio projector, ``config.projector["stride"]``.
            speaker_dim: width of a speaker vector.
            extractor: id of what made the vectors that the model knows.
            system: the prompt's system line; a PromptTokenizer brings its own.
            enrolment: what an exported folder carries to enrol speakers, see :mod:`pipeline.transcribe.carried`.

        Raises:
            ModelError: the tokenizer lacks what the prompt needs.
        """
        self.prompts = tokenizer if isinstance(tokenizer, PromptTokenizer) else PromptTokenizer(tokenizer, system)
        self.stride, self.speaker_dim, self.extractor = stride, speaker_dim, extractor
        self.system = self.prompts.system
        self.enrolment = enrolment or {}
        super().__init__(self.prompts.tokenizer)

    def __call__(
        self,
        audio: Any,
        registered: Any = None,
        mode: str | None = None,
        sampling_rate: int = SAMPLE_RATE,
        extractor: str | None = None,
        context: Sequence[str] = (),
    ) -> BatchFeature:
        """Inputs of ``generate`` for one audio or a list of them.

        Args:
            audio: (S,) samples in [-1, 1] at 16 kHz, or a list of such.
            registered: who may be named: a mapping from name to speaker vector, or one (or None) for each audio.
                Order is the prompt's order. None: speakers come out as spk0, spk1, ….
            mode: "asr" for the words alone; else it follows from ``registered``.
            sampling_rate: of the audio; anything but 16,000 is refused.
            extractor: what made the vectors, to be compared with what the model was trained on.
            context: names and terms that may be said, of all audios, for a model that was trained with them.

        Raises:
            AudioError: an audio is empty, too short, not finite or of another rate, or the list is empty.
            ConfigError: an unknown mode.
            SpeakerError: vectors of another extractor, width or number than audios.
        """
        if mode is not None and mode not in set(Mode):
            raise ConfigError(f"no mode {mode!r}; there are {', '.join(Mode)}")
        if sampling_rate != SAMPLE_RATE:
            raise AudioError(f"audio at {sampling_rate} Hz; the model takes {SAMPLE_RATE} Hz: resample it first")
        if extractor and self.extractor and extractor != self.extractor:
            raise SpeakerError(
                f"speaker vectors of {extractor!r}, the model was trained with {self.extractor!r}: "
                "enrol the speakers with that extractor"
            )
        several = isinstance(audio, (list, tuple)) and (not len(audio) or np.ndim(audio[0]) > 0)
        waves = list(audio) if several else [audio]
        named = [registered] * len(waves) if registered is None or isinstance(registered, Mapping) else list(registered)
        if len(named) != len(waves):
            raise SpeakerError(f"{len(waves)} audios, but registrations for {len(named)}: give one (or None) for each")
        return self.encode([self._prompt(w, r or {}, mode, context) for w, r in zip(waves, named, strict=True)])

    def _prompt(
        self, wave: Any, registered: Mapping[str, Any], mode: str | None, context: Sequence[str] = ()
    ) -> Prompt:
        chosen = Mode(mode) if mode else Mode.MATCH if registered else Mode.NO
        vectors = [np.asarray(v, dtype=np.float32) for v in registered.values()]
        if len({v.shape for v in vectors}) > 1:
            shapes = ", ".join(f"{name}: {v.shape}" for name, v in zip(registered, vectors, strict=True))
            raise SpeakerError(f"speaker vectors of different shapes ({shapes}); all must come from one extractor")
        pieces = tuple(prompt_pieces(chosen, list(registered), context))
        return Prompt(pieces, wave, np.stack(vectors) if vectors else None)

    def encode(self, prompts: Sequence[Prompt]) -> BatchFeature:
        """Inputs of ``generate`` for a batch of prompts; registrations may differ from prompt to prompt.

        Raises:
            AudioError: an audio is empty, too short or not finite (the message says which), or the batch is empty.
            SpeakerError: vectors do not fit the prompt or the model.
        """
        if not prompts:
            raise AudioError("no audio is given: at least one is needed")
        waves = [_waveform(p, self.stride, i, len(prompts)) for i, p in enumerate(prompts)]
        vectors = [self._vectors(p) for p in prompts]
        rows = [self._row(p, len(w)) for p, w in zip(prompts, waves, strict=True)]
        longest = max(len(r) for r in rows)
        ids = torch.full((len(rows), longest), self.prompts.pad)
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
        return BatchFeature(
            {
                "waveforms": torch.nn.utils.rnn.pad_sequence(waves, batch_first=True),
                "waveform_lengths": torch.tensor([len(w) for w in waves]),
                "input_ids": ids,
                "attention_mask": mask,
                "audio_index": torch.tensor(audio, dtype=torch.long),
                "speaker_vectors": some if len(some) else torch.zeros(1, self.speaker_dim),
                "speaker_index": torch.tensor(speakers, dtype=torch.long),
            }
        )

    def batch_decode(self, ids: Tensor, *_: Any, **__: Any) -> list[str]:
        """Generated ids (B, new) to texts; what follows the end-of-turn token is dropped."""
        texts = []
        for row in ids.tolist():
            end = row.index(self.prompts.eos) if self.prompts.eos in row else len(row)
            texts.append(self.prompts.decode(row[:end]))
        return texts

    def to_dict(self, *_: Any, **__: Any) -> dict[str, Any]:
        """Content of ``processor_config.json``."""
        names = ("stride", "speaker_dim", "extractor", "system", "enrolment", "auto_map")
        own = {name: getattr(self, name) for name in names if hasattr(self, name)}
        return {"processor_class": type(self).__name__, **own}

    def _row(self, prompt: Prompt, num_samples: int) -> list[int | AudioPiece | SpeakerPiece]:
        """A prompt's positions: the audio piece as often as it takes positions."""
        row: list[int | AudioPiece | SpeakerPiece] = []
        for item in self.prompts.encode_prompt(prompt.pieces):
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
                f"{len(slots)} registered speakers with vectors of shape {tuple(vectors.shape)}; the model takes one "
                f"vector of {self.speaker_dim} for each: enrol them with {self.extractor or 'its own extractor'}"
            )
        if not vectors.isfinite().all():
            raise SpeakerError("a registered speaker's vector is not finite: enrol the speaker again")
        return vectors


def _waveform(prompt: Prompt, stride: int, number: int, of: int) -> Tensor:
    wave = torch.as_tensor(prompt.waveform, dtype=torch.float32)
    which = f"audio {number + 1} of {of}"
    if wave.ndim != 1 or audio_positions(len(wave), stride) < 1:
        raise AudioError(f"{which} has the shape {tuple(wave.shape)}; one channel of at least 400 samples is needed")
    if not wave.isfinite().all():
        first = int((~wave.isfinite()).nonzero()[0])
        raise AudioError(f"{which} is not finite from sample {first} ({first / SAMPLE_RATE:.2f} s) on: decode it again")
    return wave
