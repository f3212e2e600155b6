"""Weights and checkpoint folders by local path or model hub id (ModelScope, Hugging Face).

With ``HF_HUB_OFFLINE=1`` no hub is contacted and only caches are used, as on compute nodes without a network.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Sequence
from pathlib import Path

from shards.errors import ConfigError, FetchError, ModelError

HUBS = ("modelscope", "huggingface")
# Files of a causal LM in the Hugging Face layout; hub repositories may hold the weights in other formats as well.
LLM_FILES = ("*.safetensors", "*.json", "*.txt", "*.model", "*.jinja")
WEIGHTS = (".ckpt", ".bin", ".pt", ".pth", ".safetensors")
_PREFIXES = {"modelscope:": "modelscope", "hf:": "huggingface"}  # of a weight source
_ID = re.compile(r"(?P<name>[\w-][\w.-]*/[\w-][\w.-]*)(@(?P<revision>[\w./-]+))?")  # owner/name or owner/name@revision
_remembered: dict[str, Path] = {}


def resolve_checkpoint(checkpoint: str, hub: str, files: Sequence[str] = LLM_FILES) -> Path:
    """Return a local checkpoint folder; a hub id is downloaded, or found in the hub's cache.

    Args:
        checkpoint: folder, or id such as ``Qwen/Qwen2.5-7B-Instruct``, with a branch, tag or commit after ``@``.
        hub: one of :data:`HUBS`.
        files: patterns of the files to download.

    Raises:
        ModelError: no such folder, and the hub has no such id or cannot be reached.
    """
    local = Path(checkpoint)
    if local.is_dir():
        return local
    if checkpoint in _remembered:
        return _remembered[checkpoint]
    if checkpoint.startswith("hf:"):
        checkpoint, hub = checkpoint.removeprefix("hf:"), "huggingface"
    if not _ID.fullmatch(checkpoint):
        raise ModelError(f"{checkpoint}: no such folder; give a local checkpoint folder or a hub id like owner/name")
    if hub not in HUBS:
        raise ModelError(f"hub is {hub!r}, must be modelscope or huggingface")
    try:
        return _download(hub, checkpoint, files)
    except Exception as e:
        reason = str(e).strip().splitlines()[0] if str(e).strip() else type(e).__name__
        raise ModelError(
            f"{checkpoint}: no such local folder, and the download from {hub} failed: {reason}. Check id and network; "
            "without a network, download it first and set HF_HUB_OFFLINE=1, or give a folder"
        ) from e


def hub_name(text: str) -> str | None:
    """Return a Hugging Face id, ``owner/name`` or ``owner/name@revision``, without the prefix ``hf:``; None: a path.

    Without the prefix, it is a path if the folder, or that of its first part, exists.
    """
    if text.startswith("hf:"):
        return text.removeprefix("hf:")
    is_path = Path(text).exists() or Path(text.partition("/")[0]).is_dir()
    return text if _ID.fullmatch(text) and not is_path else None


def remember(checkpoint: str, folder: Path) -> None:
    """Let :func:`resolve_checkpoint` of this process give this folder for an id, without asking a hub."""
    _remembered[checkpoint] = folder


def weight_file(source: str) -> Path:
    """Return the one weight file at a path, ``modelscope:ORG/NAME`` or ``hf:ORG/NAME``.

    In a folder it is the file that ``configuration.json`` names (ModelScope's layout), otherwise the only weight file.

    Raises:
        ConfigError: no such path, or not exactly one weight file in it.
        FetchError: the hub cannot be reached or has no such id.
    """
    for prefix, hub in _PREFIXES.items():
        if source.startswith(prefix):
            return _in_folder(_weight_snapshot(source, source.removeprefix(prefix), hub))
    path = Path(source)
    if path.is_file():
        return path
    if not path.is_dir():
        hubs = " or ".join(f"{prefix}ORG/NAME" for prefix in _PREFIXES)
        raise ConfigError(f"{source}: no such file or folder; a model on a hub is named {hubs}")
    return _in_folder(path)


def _weight_snapshot(source: str, name: str, hub: str) -> Path:
    # ModelScope's own configuration.json says which file counts, so all of its repository is taken.
    files = [*(f"*{end}" for end in WEIGHTS), "*.json", "*.yaml"] if hub == "huggingface" else None
    try:
        return _download(hub, name, files)
    except Exception as error:  # the clients raise their own errors, those of requests and of the system
        raise FetchError(
            f"{source} could not be downloaded: {type(error).__name__}: {str(error).strip()[:300]}\n"
            "Check the network and the id, or download it elsewhere and name the local folder."
        ) from error


def _download(hub: str, name: str, files: Sequence[str] | None) -> Path:
    """Download a repository's files (None: all) into the hub's own cache."""
    if hub == "modelscope":
        from modelscope.hub.snapshot_download import snapshot_download
    else:
        from huggingface_hub import snapshot_download
    offline = os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE")
    wanted = None if files is None else list(files)
    name, _, revision = name.partition("@")
    return Path(snapshot_download(name, revision=revision or None, allow_patterns=wanted, local_files_only=offline))


def _in_folder(folder: Path) -> Path:
    configuration = folder / "configuration.json"
    if configuration.is_file():
        try:
            named = json.loads(configuration.read_text(encoding="utf-8"))["model"]["pretrained_model"]
            if (folder / named).is_file():
                return folder / str(named)
        except (ValueError, KeyError, TypeError):
            pass  # it names no weights: look for them
    found = sorted(p for p in folder.iterdir() if p.suffix in WEIGHTS)
    if len(found) != 1:
        names = ", ".join(p.name for p in found) or "none"
        raise ConfigError(f"{folder}: one weight file is expected there, found {names}; name the file itself")
    return found[0]
