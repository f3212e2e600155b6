"""The speaker extractor and the voice activity detector that an exported folder carries, for enrolment."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from shards.errors import ModelError, SpeakerLMError
from shards.voices.by_identity import extractor_for, name_of
from shards.voices.extractors import find_extractor
from shards.voices.network_extractor import NetworkExtractor
from shards.weights.vad_weights import silero_weights

WEIGHTS, VAD = "speaker_extractor", "silero_vad.jit"
LARGEST = 200 * 10**6  # bytes of weights that are carried

logger = logging.getLogger(__name__)


def carry(folder: Path, identity: str, in_data: Iterable[str] = ()) -> dict[str, Any]:
    """Copy what enrolment needs into the folder, as far as licence, size and this machine allow.

    Args:
        identity: id of the extractor of the model's vectors; empty: it reads none.
        in_data: sha256 of the weights that made the vectors of the training data, as far as these are in reach.

    Returns:
        The description for ``processor_config.json``, see :mod:`pipeline.transcribe.carried`.

    Raises:
        ModelError: the training data's vectors are of other weights than the extractor of this id.
    """
    hashes = sorted(set(in_data)) if identity else []
    described: dict[str, Any] = {"sha256": hashes[0]} if len(hashes) == 1 else {}
    if identity:
        described |= _extractor(folder, identity, hashes)
    try:
        shutil.copyfile(silero_weights(), folder / VAD)
        described["vad"] = VAD
    except SpeakerLMError as e:
        logger.warning("the folder carries no voice activity detector: %s", e)
    return described


def _extractor(folder: Path, identity: str, hashes: list[str]) -> dict[str, Any]:
    name = name_of(identity)
    module = find_extractor(name) if name else None
    network = getattr(module, "ARCHITECTURE", None)
    if network is None:
        logger.warning("the folder carries no speaker extractor: the code of %r is not part of this project", identity)
        return {}
    described: dict[str, Any] = {"network": asdict(network)}
    if not (licence := getattr(module, "LICENCE", None)):
        logger.warning("the folder does not carry the weights of %s, whose licence is not known", identity)
        return described
    try:
        extractor = extractor_for(identity, "cpu")
    except SpeakerLMError as e:
        logger.warning("the folder does not carry the weights of %s: %s", identity, e)
        return described
    if not isinstance(extractor, NetworkExtractor):
        return described
    if hashes and hashes != [extractor.sha256]:
        raise ModelError(
            f"the training data's speaker vectors were made with weights {', '.join(hashes)}, those of {identity} are "
            f"{extractor.sha256}"
        )
    described["sha256"] = extractor.sha256
    if (size := extractor.checkpoint.stat().st_size) > LARGEST:
        logger.warning("the folder does not carry the weights of %s: %.0f MB", identity, size / 1e6)
        return described
    file = f"{WEIGHTS}{extractor.checkpoint.suffix}"
    shutil.copyfile(extractor.checkpoint, folder / file)
    return described | {"weights": file, "licence": licence}
