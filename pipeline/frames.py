"""Frames and LLM positions of a waveform: plain arithmetic, shared by the plan, the model and an exported model."""

from __future__ import annotations

from pipeline.stages import Base
from shards.sample import SAMPLE_RATE

FRAME_SAMPLES = 400  # 25 ms at 16 kHz
HOP_SAMPLES = 160  # 10 ms
LFR_WINDOW = 7  # filterbank frames stacked into one encoder frame
LFR_SHIFT = 6  # and how far that window moves
FRAME_SECONDS = LFR_SHIFT * HOP_SAMPLES / SAMPLE_RATE  # an encoder frame: 60 ms
N_MELS = 80  # channels of a filterbank frame
SECOND_FRAMES, SECOND_POSITIONS = 100, 13  # Qwen3-Omni's encoder takes a second of features at a time
Stride = int | Base  # encoder frames a position; or a base whose own encoder makes the positions


def fbank_frames(num_samples: int) -> int:
    """Kaldi filterbank frames of a waveform with snipped edges: 25 ms windows every 10 ms."""
    return 0 if num_samples < FRAME_SAMPLES else 1 + (num_samples - FRAME_SAMPLES) // HOP_SAMPLES


def lfr_frames(frames: int) -> int:
    """Encoder frames after low-frame-rate stacking; FunASR's apply_lfr pads the last window, hence the ceiling."""
    return -(-frames // LFR_SHIFT)


def encoder_frames(num_samples: int) -> int:
    """Encoder frames of a waveform: 16.67 a second."""
    return lfr_frames(fbank_frames(num_samples))


def padded_frames(frames: int, multiple: int) -> int:
    """Encoder frames that are computed where rows are padded to a multiple."""
    return -(-frames // multiple) * multiple


def audio_positions(num_samples: int, stride: Stride) -> int:
    """LLM positions of a waveform after the projector's convolution of this stride (same padding: a ceiling).

    Of a thinker they are what its encoder makes of features of 10 ms: 25 a second in Qwen2.5-Omni, after a convolution
    and a pooling that halve their number; 13 a second in Qwen3-Omni, after three convolutions over each second.
    """
    if isinstance(stride, Base):
        return thinker_positions(mel_frames(num_samples), stride)
    return -(-encoder_frames(num_samples) // stride)


def position_seconds(positions: int, start: float, stride: int) -> list[float]:
    """Seconds of the middle of each LLM position of an audio that begins ``start`` s into its recording.

    A negative ``start`` is unknown: all are -1.
    """
    step = stride * FRAME_SECONDS
    return [start + (i + 0.5) * step for i in range(positions)] if start >= 0 else [-1.0] * positions


def mel_frames(num_samples: int) -> int:
    """Features of 10 ms that a thinker hears of a waveform, which is filled up with zeros to whole ones."""
    return -(-num_samples // HOP_SAMPLES)


def thinker_positions(frames: int, base: Base) -> int:
    """LLM positions of features of 10 ms in a thinker."""
    if base is Base.QWEN2_5_OMNI:
        return -(-frames // 2) // 2
    seconds, rest = divmod(frames, SECOND_FRAMES)
    return SECOND_POSITIONS * seconds - (-rest // 8)


def windows(frames: int, longest: int) -> list[tuple[int, int]]:
    """[begin, end) of the fewest parts of at most ``longest`` frames, all alike but the last, which may be shorter."""
    if frames < 1:
        return []
    size = -(-frames // -(-frames // longest))
    return [(begin, min(begin + size, frames)) for begin in range(0, frames, size)]


def perturbed_samples(num_samples: int, speed: float) -> int:
    """Samples of a waveform that is played at another speed."""
    return round(num_samples / speed)
