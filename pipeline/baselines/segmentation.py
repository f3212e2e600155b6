"""Network of pyannote's segmentation 3.0: waveform → probabilities of silence, of three voices and of their pairs.

Band-pass filters of learned edges (SincNet), two convolutions, four bidirectional LSTM layers, two linear layers, and a
softmax over the seven subsets of up to two of three local voices. A frame is 270 samples after the one before it and
sees 991. Written from the published layout; the weights load strictly.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from shards.errors import ModelError
from shards.sample import SAMPLE_RATE

STEP, FIRST = 270, 495  # samples between frames, and the first one's centre
SUBSETS = ((), (0,), (1,), (2,), (0, 1), (0, 2), (1, 2))  # of local voices, by class
WINDOW_S, HOP_S = 10.0, 5.0  # the network was trained on 10 s
LOWEST_HZ, NARROWEST_HZ = 50.0, 50.0
_FILTERS, _HALF = 40, 125  # pairs of filters, and samples on each side of a filter's centre


class SincFilters(nn.Module):
    """80 band-pass filters of 251 samples, an even and an odd one of each band; stride 10."""

    window_: Tensor
    n_: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.low_hz_ = nn.Parameter(torch.zeros(_FILTERS, 1))
        self.band_hz_ = nn.Parameter(torch.zeros(_FILTERS, 1))
        self.register_buffer("window_", torch.zeros(_HALF))
        self.register_buffer("n_", torch.zeros(1, _HALF))  # 2π times the times left of the centre, in seconds

    def kernels(self) -> Tensor:
        """Return the filters (80, 1, 251)."""
        low = LOWEST_HZ + self.low_hz_.abs()
        high = (low + NARROWEST_HZ + self.band_hz_.abs()).clamp(LOWEST_HZ, SAMPLE_RATE / 2)
        band = high - low
        scale = 2 * self.window_ / self.n_
        even = ((high @ self.n_).sin() - (low @ self.n_).sin()) * scale
        odd = ((low @ self.n_).cos() - (high @ self.n_).cos()) * scale
        pairs = torch.cat(
            [torch.cat([even, 2 * band, even.flip(1)], 1), torch.cat([odd, torch.zeros_like(band), -odd.flip(1)], 1)]
        )
        return (pairs / (2 * band).repeat(2, 1))[:, None]


class _Sinc(nn.Module):
    """The filters, under the name that checkpoints have for them."""

    def __init__(self) -> None:
        super().__init__()
        self.filterbank = SincFilters()

    def forward(self, wave: Tensor) -> Tensor:
        return functional.conv1d(wave, self.filterbank.kernels(), stride=10).abs()


class _SincNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.wav_norm1d = nn.InstanceNorm1d(1, affine=True)
        self.conv1d = nn.ModuleList([_Sinc(), nn.Conv1d(80, 60, 5), nn.Conv1d(60, 60, 5)])
        self.norm1d = nn.ModuleList([nn.InstanceNorm1d(n, affine=True) for n in (80, 60, 60)])

    def forward(self, wave: Tensor) -> Tensor:
        x = self.wav_norm1d(wave)
        for convolution, norm in zip(self.conv1d, self.norm1d, strict=True):
            x = functional.leaky_relu(norm(functional.max_pool1d(convolution(x), 3)))
        return x


class SegmentationNetwork(nn.Module):
    """(B, samples) at 16 kHz → (B, frames, 7) logarithms of probabilities, in the order of :data:`SUBSETS`."""

    def __init__(self) -> None:
        super().__init__()
        self.sincnet = _SincNet()
        self.lstm = nn.LSTM(60, 128, 4, batch_first=True, bidirectional=True)
        self.linear = nn.ModuleList([nn.Linear(256, 128), nn.Linear(128, 128)])
        self.classifier = nn.Linear(128, len(SUBSETS))

    def forward(self, waves: Tensor) -> Tensor:
        """See the class."""
        x, _ = self.lstm(self.sincnet(waves[:, None]).transpose(1, 2))
        for layer in self.linear:
            x = functional.leaky_relu(layer(x))
        return functional.log_softmax(self.classifier(x), -1)


class Segmentation:
    """The network with its weights, over audio of any length."""

    def __init__(self, weights: Path, device: str = "cpu") -> None:
        """Load the weights: a state, or a checkpoint with ``state_dict``.

        Raises:
            ModelError: damaged, or of another network.
        """
        network = SegmentationNetwork()
        try:
            stored: Any = torch.load(weights, map_location="cpu", weights_only=True)
            network.load_state_dict(stored.get("state_dict", stored), strict=True)
        except Exception as error:  # a damaged pickle raises errors of any kind
            first = " ".join(str(error).split()[:40])
            raise ModelError(f"{weights}: not weights of segmentation 3.0: {first} …") from error
        self._network, self._device = network.eval().requires_grad_(False).to(device), device

    @torch.inference_mode()
    def probabilities(self, wave: np.ndarray) -> np.ndarray:
        """(n,) float32 at 16 kHz → (frames, 7). Of windows of 10 s every 5 s the middles are joined.

        Local voices keep their places within a window only.
        """
        frames = frame_count(len(wave))
        if frames < 2:  # norms need two
            return np.zeros((0, len(SUBSETS)), np.float32)
        window, hop = (round(s * SAMPLE_RATE / STEP) * STEP for s in (WINDOW_S, HOP_S))
        found = np.zeros((frames, len(SUBSETS)), np.float32)
        for start in range(0, max(1, len(wave) - window + hop), hop):
            part = wave[start : start + window] if start + window < len(wave) else wave[start:]
            given = torch.from_numpy(np.ascontiguousarray(part, np.float32))[None].to(self._device)
            got = self._network(given)[0].exp().cpu().numpy()
            edge = 0 if start == 0 else (window - hop) // 2 // STEP
            first = start // STEP + edge
            found[first : start // STEP + len(got)] = got[edge : edge + frames - first]
        return found


def frame_count(samples: int) -> int:
    """Return the number of frames of so many samples."""
    count = (samples - 2 * _HALF - 1) // 10 + 1
    for kernel in (None, 5, 5):
        count = count // 3 if kernel is None else (count - kernel + 1) // 3
    return max(0, count)


def frame_time(frame: float) -> float:
    """Return the centre of a frame, in seconds."""
    return (frame * STEP + FIRST) / SAMPLE_RATE
