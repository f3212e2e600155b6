"""Packages that an exported model needs for audio files and enrolment only, not to be loaded."""

from __future__ import annotations

from collections.abc import Iterable
from importlib.util import find_spec

from shards.errors import ConfigError

# Name of the module → name of the package.
OPTIONAL = {
    "av": "av",
    "fastcrc": "fastcrc",
    "funasr": "funasr",
    "kaldi_native_fbank": "kaldi-native-fbank",
    "scipy": "scipy",
    "soundfile": "soundfile",
    "soxr": "soxr",
}
AUDIO = ("fastcrc", "scipy", "soundfile", "soxr")  # av: only for files that libsndfile does not read


def require_packages(modules: Iterable[str], purpose: str) -> None:
    """Check that packages are installed.

    Raises:
        ConfigError: lists those that are missing, and how to install them.
    """
    if missing := [OPTIONAL[m] for m in modules if find_spec(m) is None]:
        raise ConfigError(f"{purpose} needs {', '.join(missing)}: pip install {' '.join(missing)}")
