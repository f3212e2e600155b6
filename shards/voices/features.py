"""Features and vectors of speaker models."""

from __future__ import annotations

import numpy as np

from shards.errors import SpeakerError
from shards.sample import SAMPLE_RATE

FEATURES = 1  # incremented when :func:`log_mel` gives other values, so that no vector of the former ones is used
MIN_SECONDS = 0.1  # shorter audio gives fewer frames than the networks' statistics pooling can use


def log_mel(wave: np.ndarray) -> np.ndarray:
    """Compute Kaldi log-mel features without dither, minus the utterance's mean.

    Args:
        wave: (n,) at 16 kHz in [-1, 1].

    Returns:
        (frames, 80) float32.

    Raises:
        SpeakerError: less than 0.1 s of audio.
    """
    import kaldi_native_fbank as knf

    if len(wave) < MIN_SECONDS * SAMPLE_RATE:
        raise SpeakerError(f"{len(wave) / SAMPLE_RATE:.3f} s of audio are too short for a speaker embedding")
    options = knf.FbankOptions()
    options.frame_opts.dither = 0.0
    options.frame_opts.samp_freq = float(SAMPLE_RATE)
    options.mel_opts.num_bins = 80
    computer = knf.OnlineFbank(options)
    computer.accept_waveform(SAMPLE_RATE, np.ascontiguousarray(wave, np.float32))
    computer.input_finished()
    frames = np.stack([computer.get_frame(i) for i in range(computer.num_frames_ready)])
    return np.asarray(frames - frames.mean(0), dtype=np.float32)


def unit_norm(vectors: np.ndarray) -> np.ndarray:
    """Scale vectors (…, dim) to norm 1.

    Raises:
        SpeakerError: a vector that is zero or not finite.
    """
    norms = np.linalg.norm(vectors, axis=-1, keepdims=True)
    if not np.isfinite(norms).all() or (norms == 0).any():
        raise SpeakerError("an embedding is zero or not finite")
    return np.asarray(vectors / norms, dtype=np.float32)
