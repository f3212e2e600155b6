"""Checkpoint folders: local, or from a model hub."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from shards.errors import ModelError

# What a causal LM in the Hugging Face layout needs; hub repositories may hold the weights a second time besides.
LLM_FILES = ("*.safetensors", "*.json", "*.txt", "*.model", "*.jinja")


def resolve_checkpoint(checkpoint: str, hub: str, files: Sequence[str] = LLM_FILES) -> Path:
    """A local folder as it is; anything else is an id that is downloaded from a model hub, or found in its cache.

    With ``HF_HUB_OFFLINE=1`` neither hub is asked and only caches are used, as on compute nodes without a network.

    Args:
        checkpoint: folder, or id such as ``Qwen/Qwen2.5-7B-Instruct``.
        hub: modelscope or huggingface.
        files: patterns of the files that are wanted.

    Raises:
        ModelError: the folder does not exist and the hub has no such id or cannot be reached.
    """
    local = Path(checkpoint)
    if local.is_dir():
        return local
    if local.is_absolute() or checkpoint.startswith(".") or checkpoint.count("/") != 1:
        raise ModelError(f"{checkpoint}: no such folder; give a local checkpoint folder or a hub id like owner/name")
    if hub not in ("modelscope", "huggingface"):
        raise ModelError(f"hub is {hub!r}, must be modelscope or huggingface")
    offline = os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE")
    try:
        if hub == "modelscope":
            from modelscope import snapshot_download
        else:
            from huggingface_hub import snapshot_download
        return Path(snapshot_download(checkpoint, allow_patterns=list(files), local_files_only=offline))
    except Exception as e:
        reason = str(e).strip().splitlines()[0] if str(e).strip() else type(e).__name__
        raise ModelError(
            f"{checkpoint}: no such local folder, and {hub} did not deliver it: {reason}. Check id and network; where "
            "there is none, download it before and set HF_HUB_OFFLINE=1, or give a folder"
        ) from e
