"""Encoder type ``whisper``: Whisper's encoder, from a folder in the Hugging Face layout; the decoder is not read."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.model.whisper_encoder import DROPOUTS, FIELDS, WHISPER, build_encoder, build_frontend
from shards.errors import ModelError

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["DROPOUTS", "build_encoder", "build_frontend", "read_checkpoint"]

CLASS_NAME = WHISPER
FILES = ("config.json", "*.safetensors")
FEATURE_WIDTH = 0  # the frontend normalises each utterance
REQUIRES: tuple[str, ...] = ()
PREFIXES = ("model.encoder.", "encoder.")  # of WhisperForConditionalGeneration, and of WhisperModel


@dataclass(frozen=True)
class WhisperCheckpoint:
    """The configuration of a Whisper folder; weights are read by :meth:`encoder_state`."""

    folder: Path
    encoder_conf: dict[str, Any]
    class_name: str = WHISPER
    frontend_conf: dict[str, Any] = field(default_factory=dict)  # all of it follows from the encoder's
    shift: list[float] = field(default_factory=list)
    scale: list[float] = field(default_factory=list)

    def encoder_state(self) -> dict[str, Tensor]:
        """The encoder's weights, without prefix; the decoder's are not read."""
        from safetensors import SafetensorError, safe_open

        found: dict[str, Tensor] = {}
        for path in sorted(self.folder.glob("*.safetensors")):
            try:
                with safe_open(str(path), framework="pt") as file:
                    for key in list(file.keys()):
                        name = next((key.removeprefix(p) for p in PREFIXES if key.startswith(p)), None)
                        if name is not None:
                            found[name] = file.get_tensor(key)
            except SafetensorError as e:
                raise ModelError(f"{path} is damaged: {e}") from e
        if not found:
            raise ModelError(f"{self.folder}: no *.safetensors with keys that begin with {' or '.join(PREFIXES)}")
        return found


def read_checkpoint(folder: Path) -> WhisperCheckpoint:
    """Read ``config.json``.

    Raises:
        ModelError: it is missing or is not Whisper's.
    """
    path = folder / "config.json"
    try:
        conf = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as e:
        raise ModelError(f"{path}: no such file; a Whisper folder holds config.json and *.safetensors") from e
    except ValueError as e:
        raise ModelError(f"{path}: not JSON: {e}") from e
    if not isinstance(conf, dict) or conf.get("model_type") != "whisper":
        raise ModelError(f"{path}: model_type is not whisper; model.encoder.type says that it is")
    if conf.get("scale_embedding"):
        raise ModelError(f"{path}: scale_embedding is not supported; no published Whisper has it")
    return WhisperCheckpoint(folder, {name: conf[name] for name in FIELDS if name in conf})


def whisper_conf(dim: int, layers: int, heads: int, *, n_mels: int = 80) -> dict[str, Any]:
    """The encoder's part of a Whisper configuration; base is 512, 6, 8. Without dropout, as OpenAI publishes them."""
    sizes = {"num_mel_bins": n_mels, "d_model": dim, "encoder_layers": layers, "encoder_attention_heads": heads}
    return {
        **sizes,
        "encoder_ffn_dim": 4 * dim,
        "max_source_positions": 1500,
        "activation_function": "gelu",
        **dict.fromkeys(DROPOUTS, 0.0),
    }


# From the config.json files that OpenAI publishes.
SHAPES = {
    "whisper-tiny": (WHISPER, whisper_conf(384, 4, 6)),
    "whisper-base": (WHISPER, whisper_conf(512, 6, 8)),
    "whisper-small": (WHISPER, whisper_conf(768, 12, 12)),
    "whisper-medium": (WHISPER, whisper_conf(1024, 24, 16)),
    "whisper-large-v3": (WHISPER, whisper_conf(1280, 32, 20, n_mels=128)),
}
