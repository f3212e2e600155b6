"""Inputs and settings that a dataset's bytes depend on, as ``dataset.json`` keeps them."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from shards.dataset.dataset import Dataset
from shards.errors import ManifestError
from shards.manifests.manifest import AUDIT
from shards.packing.packer import PACKING, Packer

BANK_KEY = "speakers_sha256"  # the only part of the configuration that shards do not depend on


def config_of(dataset: Dataset) -> dict[str, Any]:
    """Return what :func:`config` was for a dataset; empty for one of another tool."""
    return dict(dataset.info["provenance"].get("config", {}))


def provenance(packer: Packer) -> dict[str, Any]:
    """Return what a dataset was made from, and by which version."""
    extractor = packer.enroller.extractor if packer.enroller else None
    try:
        audit = json.loads((packer.manifest / AUDIT).read_bytes())
    except (OSError, ValueError):
        audit = {}  # manifests of other tools may lack it
    return {
        "extractor": extractor.id if extractor else None,
        "extractor_sha256": extractor.sha256 if extractor else None,
        "extractor_dim": extractor.dim if extractor else 0,
        "clip_rule": audit.get("clip_rule"),
        "normaliser": audit.get("normaliser"),
        "tool_version": _tool_version(),
        "seed": packer.seed,
        "config": config(packer),
    }


def config(packer: Packer) -> dict[str, Any]:
    """Return what determines the dataset's bytes, except the audio; no paths of this machine."""
    found = {
        k: v
        for k, v in asdict(packer).items()
        if k not in ("out", "manifest", "enrol", "max_self_enrolled", "decode_copied", "device")
    }
    for name in ("persons_sha256", "genders_sha256"):
        if found[name] is None:  # as in datasets of versions without it
            del found[name]
    lists = {"enrol_sha256": list(packer.enrol_sha256), BANK_KEY: list(packer.speakers_sha256)}
    return found | lists | {"packing": PACKING}


def file_sha256(path: Path) -> str:
    """Hash a file of a manifest."""
    digest = hashlib.sha256()
    try:
        with path.open("rb") as file:
            for block in iter(partial(file.read, 1 << 20), b""):
                digest.update(block)
    except OSError as error:
        raise ManifestError(f"{path}: {error.strerror}; --enrol names manifest folders") from error
    return digest.hexdigest()


def _tool_version() -> str:
    try:
        return version("speakerlm-pretrain")
    except PackageNotFoundError:
        return "unknown"
