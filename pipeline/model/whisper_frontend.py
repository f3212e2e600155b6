"""Waveforms to Whisper's log mel features in frames of 60 ms. Batched, on the device, always in fp32.

Equal to transformers' ``WhisperFeatureExtractor`` on the same samples, without its padding to 30 s. A frame holds six
of Whisper's features of 10 ms, so that frames, masks and budgets count the same with every encoder
(pipeline/frames.py): a waveform is first cut by less than 25 ms, or filled up with zeros by at most 35 ms, to whole
frames.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.rnn import pad_sequence
from transformers.audio_utils import mel_filter_bank

from pipeline.frames import FRAME_SAMPLES, HOP_SAMPLES, LFR_SHIFT, encoder_frames
from pipeline.model.fourier import power_spectrum
from shards.errors import AudioError
from shards.sample import SAMPLE_RATE

STACKED = LFR_SHIFT  # features of 10 ms in a frame
WINDOW = 400  # samples of a Fourier transform: 25 ms
FLOOR = 1e-10  # of an energy
RANGE = 8.0  # decades below an utterance's loudest band that are kept


class WhisperFrontend(nn.Module):
    """``WhisperFeatureExtractor`` as a batched module without parameters; the loudest band is the whole utterance's."""

    stacked = STACKED

    def __init__(self, n_mels: int = 80) -> None:
        super().__init__()
        self.n_mels = n_mels
        bank = mel_filter_bank(
            1 + WINDOW // 2, n_mels, 0.0, SAMPLE_RATE / 2, SAMPLE_RATE, norm="slaney", mel_scale="slaney"
        )
        with torch.device("cpu"):  # also where a model is built on the meta device
            self._constants = {"window": torch.hann_window(WINDOW), "mel": torch.from_numpy(bank).float()}

    @property
    def output_size(self) -> int:
        """Width of a frame."""
        return self.n_mels * STACKED

    def forward(self, waveforms: Tensor, lengths: Sequence[int]) -> tuple[Tensor, list[int]]:
        """Features of a batch.

        Args:
            waveforms: (A, S) in [-1, 1], any padding on the right.
            lengths: A numbers of samples.

        Returns:
            (A, F, 6 × n_mels) fp32, zero past each utterance's frames; and the A numbers of frames.

        Raises:
            AudioError: an utterance is shorter than 25 ms.
        """
        frames = [encoder_frames(n) for n in lengths]
        if min(frames) < 1:
            raise AudioError(f"audio of {min(lengths)} samples; at least {FRAME_SAMPLES} (25 ms) make a frame")
        device = "cpu" if waveforms.is_meta else waveforms.device.type  # autocast knows no meta device
        with torch.autocast(device, enabled=False):
            mel = self._log_mel(waveforms.float(), lengths, frames)
            return mel.unflatten(1, (-1, STACKED)).flatten(2), frames

    def _log_mel(self, waveforms: Tensor, lengths: Sequence[int], frames: Sequence[int]) -> Tensor:
        """(A, S) → (A, 6 F, n_mels)."""
        edged = []
        for wave, samples, n in zip(waveforms, lengths, frames, strict=True):
            wanted = n * STACKED * HOP_SAMPLES
            whole = functional.pad(wave[: min(samples, wanted)], (0, max(0, wanted - samples)))
            edged.append(functional.pad(whole[None], (WINDOW // 2, WINDOW // 2), mode="reflect")[0])
        return pad_sequence(self.log_mels(edged), batch_first=True)

    def log_mels(self, edged: Sequence[Tensor]) -> list[Tensor]:
        """Features of 10 ms of each audio, (n, n_mels).

        Args:
            edged: audios of n × 160 samples each, with 200 more on either side.
        """
        windows = [wave.unfold(0, WINDOW, HOP_SAMPLES)[:-1] for wave in edged]  # Whisper leaves the last one out
        x = torch.cat(windows) * self._constant("window", edged[0].device)
        power = power_spectrum(x, WINDOW)
        mel = (power @ self._constant("mel", x.device)).clamp_min(FLOOR).log10()
        each = mel.split([len(w) for w in windows])
        return [(m.maximum(m.amax() - RANGE) + 4.0) / 4.0 for m in each]

    def _constant(self, name: str, device: torch.device) -> Tensor:
        if self._constants[name].device != device:
            self._constants[name] = self._constants[name].to(device)
        return self._constants[name]
