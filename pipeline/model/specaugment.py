"""SpecAugment (Park et al. 2019) without time warping, on the encoder's features, from spans drawn elsewhere.

Masked features become 0: the mean after SenseVoice's normalisation, and what Whisper's own SpecAugment writes. No
random number is drawn on the device, so a resumed run masks what the uninterrupted one would have masked, on any number
of ranks.
"""

from __future__ import annotations

import torch
from torch import Tensor

from pipeline.frames import LFR_WINDOW


def mask_features(
    features: Tensor, frame_masks: Tensor | None, mel_masks: Tensor | None, stacked: int = LFR_WINDOW
) -> Tensor:
    """Zero spans of frames and bands of mel channels.

    Args:
        features: (A, F, stacked × mels), as the frontend makes them.
        frame_masks: int64 (A, K, 2), [begin, end) of each span in encoder frames; K may be 0.
        mel_masks: int64 (A, K, 2), [begin, end) of each band in mel channels; masks all stacked windows of a frame.
        stacked: windows in a frame.
    """
    if frame_masks is not None and frame_masks.shape[1]:
        features = features.masked_fill(_covered(frame_masks, features.shape[1]).unsqueeze(-1), 0.0)
    if mel_masks is not None and mel_masks.shape[1]:
        bands = _covered(mel_masks, features.shape[2] // stacked).repeat(1, stacked)
        features = features.masked_fill(bands.unsqueeze(1), 0.0)
    return features


def _covered(spans: Tensor, size: int) -> Tensor:
    """(A, K, 2) → (A, size), true where any span of the row covers."""
    place = torch.arange(size, device=spans.device)
    return ((place >= spans[..., :1]) & (place < spans[..., 1:])).any(1)
