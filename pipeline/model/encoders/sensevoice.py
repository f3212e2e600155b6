"""Encoder type ``sensevoice``: FunASR's encoders of the SANM family, from a folder in SenseVoiceSmall's layout.

===============  ==========================================================================================
``model.pt``     state dict of FunASR's model; the encoder's keys begin with ``encoder.``
``config.yaml``  FunASR's schema: ``encoder``, ``encoder_conf``, ``frontend_conf``
``am.mvn``       mean and variance of the features as a Kaldi nnet in text form
===============  ==========================================================================================
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from pipeline.model.sensevoice_encoder import build_encoder, build_frontend
from shards.errors import ModelError

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["build_encoder", "build_frontend", "read_checkpoint"]

CLASS_NAME = None  # the recipe chooses among FunASR's
FILES = ("config.yaml", "am.mvn", "model.pt")
DROPOUTS = ("dropout_rate", "positional_dropout_rate", "attention_dropout_rate")
FEATURE_WIDTH = 560  # 7 stacked frames of 80 mel bands
REQUIRES = ("funasr",)
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
    """The configuration of a SenseVoice folder; weights are read by :meth:`encoder_state`."""

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


def read_checkpoint(folder: Path) -> SenseVoiceCheckpoint:
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


# From SenseVoiceSmall's published config.yaml.
SHAPES = {"SenseVoiceSmall": ("SenseVoiceEncoderSmall", sensevoice_conf(512, 50, 20, 4, 2048))}
