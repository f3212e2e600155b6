"""Stand-in for SenseVoice: CTC on words, and at every frame the speaker vector of who speaks.

SenseVoice is trained on several tasks and keeps the voice; an encoder trained by CTC alone throws it away, and names
could never be read from its output. Short single-speaker utterances come first: CTC from scratch does not start on
long ones.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from pipeline.prompts import Mode, PromptTokenizer, target_pieces
from pipeline.standins.optimize import optimize
from shards.dataset.dataset import open_dataset
from shards.dataset.reader import read_sample
from shards.sample import Sample
from shards.sound.audio import decode

if TYPE_CHECKING:
    from torch import Tensor

ENCODER_DIM, ENCODER_BLOCKS, ENCODER_TP_BLOCKS = 128, 4, 1
SPEAKER_DIM = 192
FRAME_SECONDS = 0.06  # one encoder frame


@dataclass(frozen=True)
class CtcExample:
    """One training example of the encoder."""

    features: Tensor  # (F, 560) before mean and variance
    tokens: list[int]
    voices: Tensor  # (F, 192) unit vector of the speaker, zero in silence and overlap
    speakers: int


def read_examples(data: Path, name: str, tokenizer: PromptTokenizer) -> list[CtcExample]:
    """Read all samples of a packed dataset as features and frame targets."""
    import torch

    from pipeline.model.encoders.sensevoice import FRONTEND_CONF
    from pipeline.model.sensevoice_frontend import Frontend

    frontend = Frontend([0.0] * 560, [1.0] * 560, FRONTEND_CONF)
    dataset, out = open_dataset(str(data / name)), []
    for shard, info in enumerate(dataset.shards):
        for row in range(info.samples):
            sample = read_sample(dataset, shard, row)
            wave = torch.from_numpy(decode(sample.audio))
            features, lengths = frontend(wave[None], [len(wave)])
            text = target_pieces(Mode.ASR, sample.segments, {})[0]
            tokens = [t for t in tokenizer.encode_piece(" " + text) if t < tokenizer.eos]
            voices = torch.from_numpy(frame_voices(sample, lengths[0]))
            out.append(CtcExample(features[0, : lengths[0]], tokens, voices, len(sample.speakers)))
    return out


def frame_voices(sample: Sample, frames: int) -> np.ndarray:
    """(frames, 192) the speaker vector of the one person who speaks in each frame, else zeros."""
    voices = np.zeros((frames, SPEAKER_DIM), np.float32)
    count = np.zeros(frames, np.int64)
    if sample.embeddings is None:
        return voices
    for segment in sample.segments:
        at = slice(int(segment.start / FRAME_SECONDS), max(1, round(segment.end / FRAME_SECONDS)))
        voices[at] += sample.embeddings[sample.speakers.index(segment.speaker)]
        count[at] += 1
    voices[count != 1] = 0
    return voices


def train_encoder(data: Path, out: Path, steps: int, seed: int) -> None:
    """CTC and speaker prediction with a curriculum; writes the SenseVoice folder."""
    import torch
    from torch.nn import functional

    from pipeline.model.encoders.sensevoice import sensevoice_conf
    from pipeline.model.sensevoice_encoder import FunasrEncoder
    from pipeline.standins.encoder_folders import write_sensevoice_folder

    torch.manual_seed(seed)
    torch.set_num_threads(1)
    rng = random.Random(seed)
    tokenizer = PromptTokenizer.from_folder(out / "llm")
    single, several = read_examples(data, "asr", tokenizer), read_examples(data, "simulated", tokenizer)
    single.sort(key=lambda u: len(u.tokens))
    stacked = torch.cat([u.features for u in single[:500] + several[:500]])
    shift, scale = -stacked.mean(0), 1 / stacked.std(0).clamp(min=1e-3)

    conf = sensevoice_conf(ENCODER_DIM, ENCODER_BLOCKS, ENCODER_TP_BLOCKS, ffn=2 * ENCODER_DIM)
    conf |= {"dropout_rate": 0.0, "positional_dropout_rate": 0.0, "attention_dropout_rate": 0.0}
    encoder = FunasrEncoder("SenseVoiceEncoderSmall", conf)
    blank = tokenizer.eos  # never a target
    head = torch.nn.Linear(ENCODER_DIM, blank + 1)
    voice = torch.nn.Linear(ENCODER_DIM, SPEAKER_DIM)
    parameters = [*encoder.parameters(), *head.parameters(), *voice.parameters()]

    def losses(step: int) -> dict[str, Tensor]:
        progress = step / steps
        if progress < 0.3:
            pool: Sequence[CtcExample] = single[: len(single) // 2]
        elif progress < 0.5:
            pool = single
        else:
            pool = several if rng.random() < 0.7 else single
        batch = [rng.choice(pool) for _ in range(24)]
        lengths = [len(u.features) for u in batch]
        x = torch.nn.utils.rnn.pad_sequence([u.features for u in batch], batch_first=True)
        hidden = encoder((x + shift) * scale, lengths)
        log_probs = functional.log_softmax(head(hidden), -1).transpose(0, 1)
        targets = torch.tensor([t for u in batch for t in u.tokens])
        counts = torch.tensor([len(u.tokens) for u in batch])
        ctc = functional.ctc_loss(
            log_probs, targets, torch.tensor(lengths), counts, blank=blank, reduction="sum", zero_infinity=True
        ) / len(targets)
        voices = torch.nn.utils.rnn.pad_sequence([u.voices for u in batch], batch_first=True)
        spoken = voices.abs().sum(-1) > 0
        if not spoken.any():
            return {"ctc": ctc}
        away = 1 - functional.cosine_similarity(voice(hidden)[spoken], voices[spoken], dim=-1).mean()
        return {"ctc": ctc, "voice": away}

    optimize("encoder", parameters, losses, steps, 1e-3)
    write_sensevoice_folder(
        out / "encoder", encoder.backbone.state_dict(), conf, shift=shift.tolist(), scale=scale.tolist()
    )
