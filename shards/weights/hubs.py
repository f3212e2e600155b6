"""Weight files by where they are: a local path, ``modelscope:ORG/NAME`` or ``hf:ORG/NAME``."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from shards.errors import ConfigError, FetchError

WEIGHTS = (".ckpt", ".bin", ".pt", ".pth", ".safetensors")


def weight_file(source: str) -> Path:
    """The one weight file there; what is on a hub is downloaded into the hub's own cache.

    A folder's file is the one that its ``configuration.json`` names (as ModelScope's models have it), otherwise its
    only one.

    Raises:
        ConfigError: no such path, or not one weight file in it.
        FetchError: the hub cannot be reached or does not have it.
    """
    for prefix, fetch in _HUBS.items():
        if source.startswith(prefix):
            return _in_folder(_snapshot(source, source.removeprefix(prefix), fetch))
    path = Path(source)
    if path.is_file():
        return path
    if not path.is_dir():
        hubs = " or ".join(f"{prefix}ORG/NAME" for prefix in _HUBS)
        raise ConfigError(f"{source}: no such file or folder; a model on a hub is named {hubs}")
    return _in_folder(path)


def _snapshot(source: str, name: str, fetch: Callable[[str], str]) -> Path:
    try:
        return Path(fetch(name))
    except Exception as error:  # the hubs' clients raise errors of their own, of requests, and of the system
        raise FetchError(
            f"{source} could not be downloaded: {type(error).__name__}: {str(error).strip()[:300]}\n"
            "Check the network and the id, or download it elsewhere and name the local folder."
        ) from error


def _modelscope(name: str) -> str:
    from modelscope.hub.snapshot_download import snapshot_download

    return str(snapshot_download(name))


def _huggingface(name: str) -> str:
    from huggingface_hub import snapshot_download

    return str(snapshot_download(name, allow_patterns=[*(f"*{end}" for end in WEIGHTS), "*.json", "*.yaml"]))


_HUBS: dict[str, Callable[[str], str]] = {"modelscope:": _modelscope, "hf:": _huggingface}


def _in_folder(folder: Path) -> Path:
    configuration = folder / "configuration.json"
    if configuration.is_file():
        try:
            named = json.loads(configuration.read_text(encoding="utf-8"))["model"]["pretrained_model"]
            if (folder / named).is_file():
                return folder / str(named)
        except (ValueError, KeyError, TypeError):
            pass  # it says nothing of weights: look for them
    found = sorted(p for p in folder.iterdir() if p.suffix in WEIGHTS)
    if len(found) != 1:
        names = ", ".join(p.name for p in found) or "none"
        raise ConfigError(f"{folder}: one weight file is expected there, found {names}; name the file itself")
    return found[0]
