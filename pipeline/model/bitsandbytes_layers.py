"""Linear layers of the LLM in 8 or 4 bits by bitsandbytes, for decoding.

The layers are those that transformers makes of a ``BitsAndBytesConfig``, with its defaults: LLM.int8() with a threshold
of 6 for outliers, or NF4 with blocks of 64 weights. Each is moved to the device when it has been replaced, so that a
GPU never holds the whole model at full precision. The output layer, embeddings, LoRA, encoder and projectors stay as
they are.
"""

from __future__ import annotations

from typing import Any

from torch import nn

from pipeline.stages import module_of
from shards.errors import ConfigError

KINDS = ("int8", "nf4")
INSTALL = "pip install -c constraints.txt 'speakerlm-pretrain[quantize]'"


def use_bitsandbytes(model: Any, kind: str, device: str) -> Any:
    """Replace the linear layers of a model's LLM in place, and move it to a device; return the model.

    Args:
        kind: of KINDS.

    Raises:
        ConfigError: bitsandbytes is not installed, or cannot compute on the device.
    """
    bits = _library(kind)
    llm = model.llm
    output = llm.get_output_embeddings()
    try:
        for name, parent in list(llm.named_modules()):
            for child, layer in list(parent.named_children()):
                mine = type(layer) is nn.Linear and layer is not output
                if mine and module_of(f"llm.{name}.{child}.weight") == "llm":
                    setattr(parent, child, _layer(bits, layer, kind).to(device))
    except (RuntimeError, AttributeError, AssertionError) as e:  # torch asserts that it has a GPU
        reason = " ".join(str(e).split())[:300]
        raise ConfigError(f"--quantize {kind}: bitsandbytes cannot use {device} ({reason}): leave it out") from e
    return model.to(device)


def _library(kind: str) -> Any:
    try:
        import bitsandbytes
    except (ImportError, OSError, RuntimeError) as e:  # a library that does not load
        raise ConfigError(f"--quantize {kind} needs bitsandbytes ({e}): {INSTALL}") from e
    return bitsandbytes.nn


def _layer(bits: Any, linear: nn.Linear, kind: str) -> nn.Module:
    """Return a layer with the same weights, which are rounded when it moves to its device."""
    from transformers import BitsAndBytesConfig

    shape: tuple[int, int, bool] = linear.in_features, linear.out_features, linear.bias is not None
    dtype = linear.weight.dtype
    new: nn.Module
    if kind == "int8":
        settings = BitsAndBytesConfig(load_in_8bit=True)
        new = bits.Linear8bitLt(*shape, has_fp16_weights=False, threshold=settings.llm_int8_threshold)
    else:
        settings = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type=kind, bnb_4bit_compute_dtype=dtype)
        new = bits.Linear4bit(
            *shape, compute_dtype=settings.bnb_4bit_compute_dtype, quant_type=settings.bnb_4bit_quant_type
        )
    new.load_state_dict(linear.state_dict())
    if linear.bias is not None:
        new.bias = nn.Parameter(linear.bias.detach().clone(), requires_grad=False)
    new.weight.requires_grad_(False)
    return new.eval()
