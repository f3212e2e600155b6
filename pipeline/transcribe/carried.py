"""The speaker extractor and the voice activity detector that an exported folder carries, and their description.

``enrolment`` in ``processor_config.json`` describes them:

    sha256    of the extractor's weights, if known
    network   class of the extractor and its arguments: the fields of Architecture
    weights   their file in the folder; absent if the folder may not carry them
    vad       the Silero detector's file in the folder; absent likewise
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from pipeline.model.optional_packages import AUDIO, require_packages
from pipeline.transcribe.vad import Energy, Silero, Vad
from shards.errors import ConfigError, SpeakerError
from shards.voices.network_extractor import Architecture, NetworkExtractor


def require_enrolment(enrolment: Mapping[str, Any]) -> None:
    """Raise ConfigError for packages that enrolment needs and that are not installed."""
    funasr = str((enrolment.get("network") or {}).get("module", "")).startswith("funasr.")
    require_packages([*AUDIO, "kaldi_native_fbank", *["funasr"] * funasr], "enrolling speakers")


def speaker_model(
    identity: str, enrolment: Mapping[str, Any], find: Callable[[str], Path], weights: Path | None, device: str
) -> NetworkExtractor:
    """Load the speaker extractor of a model.

    Args:
        identity: its id in the model's configuration.
        find: returns the path of one of the folder's files.
        weights: its weights on this machine; None: those that the folder carries.

    Raises:
        ConfigError: the folder carries none, or a package is missing.
        SpeakerError: the weights are not those that the model was trained with.
    """
    network, sha256 = enrolment.get("network"), enrolment.get("sha256") or ""
    if network is None:
        raise ConfigError(
            f"the code of speaker extractor {identity or 'of this model'!r} is not in this folder: make the vectors "
            "with it, and pass them in place of clips"
        )
    if weights is None and not enrolment.get("weights"):
        raise ConfigError(
            f"this folder may not carry the weights of {identity} (sha256 {sha256 or 'unknown'}): get them from their "
            "authors, and pass the file as weights=…"
        )
    require_enrolment(enrolment)
    path = weights or find(enrolment["weights"])
    if not path.is_file():
        raise SpeakerError(f"{path}: no such file; give the weights of {identity}")
    found = NetworkExtractor(identity, Architecture(**network).build, path, network["dim"], None, device)
    if sha256 and found.sha256 != sha256:
        raise SpeakerError(
            f"{path} has the sha256 {found.sha256}, the model was trained with vectors of {identity}, {sha256}: "
            "vectors of other weights mean nothing to it"
        )
    return found


def voice_detector(name: str, enrolment: Mapping[str, Any], find: Callable[[str], Path]) -> Vad:
    """Return a fresh detector: ``silero`` of the folder, or ``energy``.

    Raises:
        ConfigError: an unknown name, or the folder carries no such file.
    """
    require_packages(AUDIO, "reading audio")
    if name == "energy":
        return Energy()
    if name != "silero":
        raise ConfigError(f"unknown voice activity detector {name!r}, known: silero, energy")
    if not enrolment.get("vad"):
        raise ConfigError("this folder carries no Silero voice activity detector: export it again, or use vad='energy'")
    return Silero(find(enrolment["vad"]))
