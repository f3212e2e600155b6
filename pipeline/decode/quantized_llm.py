"""An LLM that was quantized before: the folder ``llm`` of a run or an export, for the engine on vLLM.

Tools such as llm-compressor and AutoAWQ read the plain folder of the merged LLM and write another one, whose
``config.json`` says how its weights are stored (``quantization_config``). The rest of the model stays as it is.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.model.own_weights import fingerprint_weights
from shards.errors import ModelError

FOLDER = "llm"
METHODS = ("awq", "gptq", "compressed-tensors", "fp8")  # that vLLM reads; the first two were tried or are its kin
SHAPE = ("model_type", "hidden_size", "num_hidden_layers", "num_attention_heads", "vocab_size")


@dataclass(frozen=True)
class QuantizedLLM:
    """A folder with the LLM."""

    folder: Path
    method: str  # of METHODS
    identity: str  # hash of configuration and weights


def quantized_llm(model: Path, llm: Mapping[str, Any]) -> QuantizedLLM | None:
    """Return the quantized LLM in the folder of a model; None without one.

    Args:
        llm: configuration of the model's own LLM.

    Raises:
        ModelError: the folder is damaged, is not quantized, by a method that vLLM does not read, or of another LLM.
    """
    folder = model / FOLDER
    if not folder.is_dir():
        return None
    path = folder / "config.json"
    try:
        text = path.read_text(encoding="utf-8")
        config = json.loads(text)
        method = str((config.get("quantization_config") or {}).get("quant_method") or "")
    except (OSError, ValueError, AttributeError) as e:
        raise ModelError(f"{path} cannot be read ({e}): quantize the LLM again, or delete {folder}") from e
    if not method:
        raise ModelError(f"{path} has no quantization_config: quantize the LLM into {folder}, or delete that folder")
    if method not in METHODS:
        raise ModelError(
            f"{path}: vLLM does not read weights of {method!r} here, but {', '.join(METHODS)}; bitsandbytes works with "
            "--engine transformers --quantize nf4"
        )
    if differing := [k for k in SHAPE if config.get(k) != llm.get(k)]:
        name = differing[0]
        raise ModelError(
            f"{folder} is another LLM: {name} is {config.get(name)}, the model has {llm.get(name)}; quantize the "
            "merged LLM of this model"
        )
    digest = hashlib.sha256(f"{text} {fingerprint_weights(folder)}".encode()).hexdigest()
    return QuantizedLLM(folder, method, digest)
