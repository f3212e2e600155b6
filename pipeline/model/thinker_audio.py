"""Inputs of a thinker's audio encoder: log mel features of 10 ms, cut as transformers cuts them.

Features equal transformers' ``WhisperFeatureExtractor`` as the processors of both models call it for one audio. Indices
and bounds of chunks are computed from the audios' lengths on the host, so that the encoder never waits for the device.
A chunk is always filled up to its full length: then an audio gives the same alone as in any batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from pipeline.frames import HOP_SAMPLES, mel_frames, thinker_positions
from pipeline.model.whisper_frontend import WINDOW, WhisperFrontend
from pipeline.stages import Base
from shards.errors import AudioError

SHORTEST = 400  # samples, as of every encoder of the project


class ThinkerFrontend(nn.Module):
    """Waveforms to features, in fp32 on the device; without parameters."""

    def __init__(self, n_mels: int, base: Base) -> None:
        """Build for one of the two models.

        Args:
            base: Qwen2.5-Omni's processor fills audio up to five minutes, so zeros follow its end; Qwen3-Omni's takes
                it as it is, so its end is mirrored.
        """
        super().__init__()
        self._mels, self._edge = WhisperFrontend(n_mels), "reflect" if base is Base.QWEN3_OMNI else "constant"

    def forward(self, waveforms: Tensor, lengths: Sequence[int]) -> list[Tensor]:
        """Features of each audio.

        Args:
            waveforms: (A, S) in [-1, 1], any padding on the right.
            lengths: A numbers of samples.

        Returns:
            A tensors (frames, n_mels), fp32.

        Raises:
            AudioError: an audio is shorter than 25 ms.
        """
        if min(lengths) < SHORTEST:
            raise AudioError(f"audio of {min(lengths)} samples; at least {SHORTEST} (25 ms) make a frame")
        edged = []
        for wave, samples in zip(waveforms.float(), lengths, strict=True):
            whole = functional.pad(wave[:samples], (0, mel_frames(samples) * HOP_SAMPLES - samples))
            left = functional.pad(whole[None], (WINDOW // 2, 0), mode="reflect")
            edged.append(functional.pad(left, (0, WINDOW // 2), mode=self._edge)[0])
        device = "cpu" if waveforms.is_meta else waveforms.device.type
        with torch.autocast(device, enabled=False):
            return self._mels.log_mels(edged)


def encoder_inputs(features: Sequence[Tensor], conf: Any, base: Base) -> dict[str, Any]:
    """Return the arguments of the audio encoder's forward for all audios together.

    Args:
        features: (frames, n_mels) of each audio.
        conf: the encoder's configuration.
        base: which of the two encoders it is.
    """
    size = 2 * conf.n_window
    frames = [len(f) for f in features]
    pieces = [piece for f in features for piece in f.split(size)]
    chunks = [len(piece) for piece in pieces]
    device = features[0].device
    padded = torch.stack([functional.pad(piece, (0, 0, 0, size - len(piece))) for piece in pieces]).transpose(1, 2)
    inputs = {"padded_feature": padded, "chunk_lengths": torch.tensor(chunks).to(device)}
    if base is Base.QWEN2_5_OMNI:
        valid = [_halved(n) for n in chunks]
        row, spans = _halved(size), valid
        starts = [0, *accumulate(_halved(n) for n in frames)][:-1]
        pairs = [start + 2 * i for start, n in zip(starts, frames, strict=True) for i in range(_halved(n) // 2)]
        inputs["pool_indices"] = torch.tensor(pairs).to(device)
    else:
        valid = [thinker_positions(n, base) for n in chunks]
        row = thinker_positions(size, base)
        window = row * (conf.n_window_infer // size)
        made = [thinker_positions(n, base) for n in frames]
        spans = [min(window, n - at) for n in made for at in range(0, n, window)]
    inputs["valid_indices"] = torch.tensor([i * row + j for i, n in enumerate(valid) for j in range(n)]).to(device)
    inputs["cu_seqlens"] = torch.tensor([0, *accumulate(spans)], dtype=torch.int32)  # read on the host
    return inputs


def _halved(n: int) -> int:
    return -(-n // 2)
