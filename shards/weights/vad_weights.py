"""Weights of the Silero voice activity detector, from its package on PyPI.

11 MB, licence MIT. Only the file is used; the package is neither installed nor run.
"""

from __future__ import annotations

from pathlib import Path

from shards.weights.fetch import Wheel, cache_folder, fetch_wheel_member

SILERO = Wheel(
    name="silero_vad",
    version="6.2.3",
    sha256="7b7f5436cfcb02fae583a05b512ea96467fd449fe54cb49a5e4f06c51a1e43b8",
    python="3.11",
    platform="manylinux_2_28_x86_64",
)
MEMBER = "silero_vad/data/silero_vad.jit"
SHA256 = "e1122837f4154c511485fe0b9c64455f7b929c96fbb8d79fbdb336383ebd3720"


def silero_weights(cache: Path | None = None) -> Path:
    """Return the TorchScript file: 512 samples at 16 kHz → a probability of speech, with state between calls.

    Raises:
        FetchError: not in the cache, and the download failed.
    """
    return fetch_wheel_member(SILERO, MEMBER, SHA256, cache or cache_folder())
