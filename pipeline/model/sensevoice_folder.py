"""Public checkpoints on disk: SenseVoiceSmall's layout, and folders of model hubs.

The SenseVoice layout is a folder of three files:

===============  ==========================================================================================
``model.pt``     state dict of FunASR's model; the encoder's keys begin with ``encoder.``
``config.yaml``  FunASR's schema: ``encoder``, ``encoder_conf``, ``frontend_conf``
``am.mvn``       mean and variance of the features as a Kaldi nnet in text form
===============  ==========================================================================================
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from shards.errors import ModelError

if TYPE_CHECKING:
    from torch import Tensor

SENSEVOICE_FILES = ("model.pt", "config.yaml", "am.mvn")
FRONTEND_CONF: dict[str, Any] = {
    "fs": 16000,
    "window": "hamming",
    "n_mels": 80,
    "frame_length": 25,
    "frame_shift": 10,
    "lfr_m": 7,
    "lfr_n": 6,
    "cmvn_file": None,
}


@dataclass(frozen=True)
class SenseVoiceCheckpoint:
    """What a SenseVoice folder says of itself; weights are read by :meth:`encoder_state`."""

    folder: Path
    class_name: str
    encoder_conf: dict[str, Any]
    frontend_conf: dict[str, Any]
    shift: list[float]  # added to the features; lfr_m * n_mels values
    scale: list[float]  # then multiplied

    def encoder_state(self) -> dict[str, Tensor]:
        """The encoder's weights, without the prefix ``encoder.``."""
        import torch

        path = self.folder / "model.pt"
        if not path.is_file():
            raise ModelError(f"{path}: no such file; a SenseVoice folder holds model.pt, config.yaml and am.mvn")
        state = torch.load(path, map_location="cpu", mmap=True, weights_only=True)
        for wrapper in ("state_dict", "model_state_dict", "model"):
            if isinstance(state.get(wrapper), dict):
                state = state[wrapper]
        found = {k.removeprefix("encoder."): v for k, v in state.items() if k.startswith("encoder.")}
        if not found:
            raise ModelError(f"{path}: no key begins with 'encoder.'; keys are {', '.join(list(state)[:5])} …")
        return found


def read_sensevoice_folder(folder: Path) -> SenseVoiceCheckpoint:
    """Read ``config.yaml`` and ``am.mvn``.

    Raises:
        ModelError: a file is missing or is not of the layout.
    """
    path = folder / "config.yaml"
    try:
        conf = OmegaConf.to_container(OmegaConf.load(path))
    except FileNotFoundError as e:
        raise ModelError(f"{path}: no such file; an encoder checkpoint holds model.pt, config.yaml, am.mvn") from e
    except (OmegaConfBaseException, ValueError) as e:
        raise ModelError(f"{path}: not a FunASR configuration: {e}") from e
    if not isinstance(conf, dict) or not {"encoder", "encoder_conf"} <= conf.keys():
        raise ModelError(f"{path}: no 'encoder' and 'encoder_conf'; this is not the configuration of a FunASR encoder")
    frontend_conf = {**FRONTEND_CONF, **(conf.get("frontend_conf") or {})}
    shift, scale = read_mvn(folder / "am.mvn")
    width = frontend_conf["n_mels"] * frontend_conf["lfr_m"]
    if not len(shift) == len(scale) == width:
        raise ModelError(f"{folder / 'am.mvn'}: {len(shift)} shifts and {len(scale)} scales for features of {width}")
    return SenseVoiceCheckpoint(folder, conf["encoder"], dict(conf["encoder_conf"]), frontend_conf, shift, scale)


def read_mvn(path: Path) -> tuple[list[float], list[float]]:
    """Shift and scale of a Kaldi nnet in text form: the vectors of ``<AddShift>`` and ``<Rescale>``."""
    try:
        words = path.read_text(encoding="utf-8").split()
    except FileNotFoundError as e:
        raise ModelError(f"{path}: no such file; it holds mean and variance of the features") from e
    try:
        return _nnet_vector(words, "<AddShift>"), _nnet_vector(words, "<Rescale>")
    except ValueError as e:
        raise ModelError(f"{path}: not a Kaldi nnet in text form with <AddShift> and <Rescale>: {e}") from e


def _nnet_vector(words: Sequence[str], component: str) -> list[float]:
    begin = words.index("[", words.index(component))
    return [float(w) for w in words[begin + 1 : words.index("]", begin)]]


def sensevoice_conf(dim: int, blocks: int, tp_blocks: int, heads: int = 4, ffn: int | None = None) -> dict[str, Any]:
    """``encoder_conf`` of SenseVoiceSmall at other sizes; the real one is 512, 50, 20, 4, 2048."""
    return {
        "output_size": dim,
        "attention_heads": heads,
        "linear_units": ffn or 4 * dim,
        "num_blocks": blocks,
        "tp_blocks": tp_blocks,
        "dropout_rate": 0.1,
        "positional_dropout_rate": 0.1,
        "attention_dropout_rate": 0.1,
        "input_layer": "pe",
        "pos_enc_class": "SinusoidalPositionEncoder",
        "normalize_before": True,
        "kernel_size": 11,
        "sanm_shfit": 0,
        "selfattention_layer_type": "sanm",
    }


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


def fingerprint_weights(folder: Path) -> str:
    """Hash that tells checkpoints apart without reading them whole.

    Names and sizes of the weight files and 1 MiB from the start, middle and end of each: a 15 GB model takes
    milliseconds, and a file that was trained further differs in every part of it.
    """
    digest = hashlib.sha256()
    files = [*sorted(folder.glob("*.safetensors")), *sorted(folder.glob("*.bin")), *sorted(folder.glob("*.pt"))]
    if not files:
        raise ModelError(f"{folder}: no weights (*.safetensors, *.bin, *.pt)")
    part = 1 << 20
    for path in files:
        size = path.stat().st_size
        digest.update(f"{path.name} {size}\n".encode())
        with path.open("rb") as f:
            for offset in (0, max(0, size // 2), max(0, size - part)):
                f.seek(offset)
                digest.update(f.read(part))
    return digest.hexdigest()
