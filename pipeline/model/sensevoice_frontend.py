"""Waveforms to encoder features: Kaldi fbank, low frame rate stacking, mean and variance. Batched, on the device.

Equal to FunASR's ``WavFrontend`` with dither 0: to 2e-3 in log mel energy for bands within 100 dB of their frame's
loudest. Below that FunASR's fp32 rounds by up to 4e-3; this frontend is within 1e-5 of the formula everywhere. There
are no parameters, and constants are plain tensors, so that casting a model to bf16 does not touch them: features are
always computed in fp32.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from pipeline.frames import FRAME_SAMPLES, HOP_SAMPLES, LFR_SHIFT, LFR_WINDOW, fbank_frames, lfr_frames
from pipeline.model.fourier import power_spectrum
from pipeline.model.host_to_device import on_device, within
from shards.errors import AudioError, ModelError
from shards.sample import SAMPLE_RATE

FFT_SIZE = 512  # the window rounded up to a power of two
PREEMPHASIS = 0.97
LOW_FREQUENCY = 20.0  # Hz, lower edge of the first mel band; the last ends at the Nyquist frequency
CACHED_FRAMES = 256  # at once on a CPU: in its second-level cache fp64 costs a fraction
MEL_FLOOR = torch.finfo(torch.float32).eps


class Frontend(nn.Module):
    """FunASR's ``WavFrontend`` as a batched module without parameters."""

    stacked = LFR_WINDOW  # filterbank frames in a frame
    meta_is_cpu = False  # which device the meta device stands for

    def __init__(self, shift: Sequence[float], scale: Sequence[float], conf: dict[str, Any]) -> None:
        """Take ``am.mvn``'s vectors and ``frontend_conf`` of the encoder's ``config.yaml``.

        Raises:
            ModelError: the configuration asks for what lengths.py does not count.
        """
        super().__init__()
        fixed = {"fs": SAMPLE_RATE, "frame_length": 25, "frame_shift": 10, "lfr_m": LFR_WINDOW, "lfr_n": LFR_SHIFT}
        wrong = [f"{k}={conf[k]} (supported: {v})" for k, v in fixed.items() if conf.get(k, v) != v]
        if conf.get("window", "hamming") != "hamming":
            wrong.append(f"window={conf['window']} (supported: hamming)")
        if wrong:
            raise ModelError(f"frontend_conf of the encoder is not supported: {', '.join(wrong)}")
        self.n_mels = int(conf.get("n_mels", 80))
        with torch.device("cpu"):  # also where a model is built on the meta device, to be filled from a file
            self._constants = {
                "window": 0.54
                - 0.46 * torch.cos(2 * math.pi / (FRAME_SAMPLES - 1) * torch.arange(FRAME_SAMPLES).double()),
                "mel": mel_filters(self.n_mels).float(),
                "shift": torch.tensor(shift, dtype=torch.float32),
                "scale": torch.tensor(scale, dtype=torch.float32),
            }

    @property
    def output_size(self) -> int:
        """Width of the features."""
        return self.n_mels * LFR_WINDOW

    def forward(self, waveforms: Tensor, lengths: Sequence[int]) -> tuple[Tensor, list[int]]:
        """Features of a batch.

        Args:
            waveforms: (A, S) in [-1, 1], any padding on the right.
            lengths: A numbers of samples.

        Returns:
            (A, F, 7 × n_mels) fp32, zero past each utterance's frames; and the A numbers of frames.

        Raises:
            AudioError: an utterance is shorter than one 25 ms window.
        """
        frames = [fbank_frames(n) for n in lengths]
        if min(frames) < 1:
            raise AudioError(
                f"audio of {min(lengths)} samples; at least {FRAME_SAMPLES} (25 ms) are needed for one frame"
            )
        device = "cpu" if waveforms.is_meta else waveforms.device.type  # autocast knows no meta device
        with torch.autocast(device, enabled=False):
            return self._stack(self._fbank(waveforms.float(), frames), frames), [lfr_frames(f) for f in frames]

    def _constant(self, name: str, device: torch.device) -> Tensor:
        if self._constants[name].device != device:
            self._constants[name] = self._constants[name].to(device)
        return self._constants[name]

    def _fbank(self, waveforms: Tensor, frames: Sequence[int]) -> Tensor:
        """(A, S) → (Σ frames, n_mels) log mel energies of all utterances, one after the other."""
        windows = waveforms.unfold(1, FRAME_SAMPLES, HOP_SAMPLES)
        rows = [windows[i, :n] for i, n in enumerate(frames)]
        pieces = waveforms.device.type == "cpu" or (waveforms.is_meta and self.meta_is_cpu)
        parts = [part for row in rows for part in row.split(CACHED_FRAMES)] if pieces else [torch.cat(rows)]
        return torch.cat([self._log_mel(part) for part in parts])

    def _log_mel(self, x: Tensor) -> Tensor:
        """(n, FRAME_SAMPLES) → (n, n_mels)."""
        # In fp64 up to the power spectrum: quiet bands of a loud frame drown in the rounding of fp32.
        x = x.double().mul_(1 << 15)
        x -= x.mean(-1, keepdim=True)
        filled = x.new_zeros(len(x), FFT_SIZE)
        heard = filled[:, :FRAME_SAMPLES]
        heard[:, 0] = x[:, 0] * (1 - PREEMPHASIS)  # Kaldi takes the first sample as its own predecessor
        torch.sub(x[:, 1:], x[:, :-1], alpha=PREEMPHASIS, out=heard[:, 1:])
        heard *= self._constant("window", x.device)
        power = power_spectrum(filled, FFT_SIZE).float()
        return (power @ self._constant("mel", x.device)).clamp_min(MEL_FLOOR).log()

    def _stack(self, mel: Tensor, frames: Sequence[int]) -> Tensor:
        """(Σ frames, n_mels) → (A, F, 7 × n_mels): every 6th window of 7 frames, then mean and variance.

        As FunASR's ``apply_lfr`` the first frame is repeated on the left and the utterance's own last one on the right.
        """
        device = mel.device
        total = lfr_frames(max(frames))
        last = on_device(frames, device).unsqueeze(1) - 1
        window = torch.arange(LFR_WINDOW, device=device) - (LFR_WINDOW - 1) // 2
        index = (LFR_SHIFT * torch.arange(total, device=device).unsqueeze(1) + window).view(1, -1)
        index = index.clamp_min(0).minimum(last)  # (A, F × 7), each counted from its utterance's first frame
        index = index + (last + 1).cumsum(0) - (last + 1)
        stacked = mel.index_select(0, index.flatten()).view(len(frames), total, -1)
        out = (stacked + self._constant("shift", device)) * self._constant("scale", device)
        return out * within([lfr_frames(f) for f in frames], total, device).unsqueeze(-1)


def mel_filters(n_mels: int) -> Tensor:
    """(FFT_SIZE / 2 + 1, n_mels) triangular filters as Kaldi has them, equally spaced in mel = 1127 ln(1 + f / 700)."""
    edges = torch.tensor([LOW_FREQUENCY, SAMPLE_RATE / 2], dtype=torch.float64)
    low, high = _mel(edges)
    points = torch.linspace(float(low), float(high), n_mels + 2, dtype=torch.float64)
    bins = _mel(torch.arange(FFT_SIZE // 2, dtype=torch.float64) * SAMPLE_RATE / FFT_SIZE).unsqueeze(1)
    left, centre, right = points[:-2], points[1:-1], points[2:]
    filters = torch.minimum((bins - left) / (centre - left), (right - bins) / (right - centre)).clamp_min(0)
    return functional.pad(filters, (0, 0, 0, 1))  # Kaldi leaves the Nyquist bin out


def _mel(frequency: Tensor) -> Tensor:
    return 1127.0 * torch.log1p(frequency / 700.0)
