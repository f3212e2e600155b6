"""CTranslate2's ``model.bin``: its tensors by name, and Whisper's encoder from it under transformers' names.

The layout is that of ``ModelSpec.save`` in CTranslate2, little endian: version, name and revision of the model,
then each variable as name, rank, dimensions, type, size in bytes, content; then aliases of variables.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from pathlib import Path
from typing import IO

import numpy as np
import torch
from torch import Tensor

from shards.errors import ModelError

VERSION = 6  # of the layout; those before lack the type or the aliases
DTYPES = {0: "float32", 1: "int8", 2: "int16", 3: "int32", 4: "float16"}


def read_variables(path: Path, prefix: str) -> dict[str, np.ndarray]:
    """The variables whose names begin with ``prefix``.

    Raises:
        ModelError: not such a file, or it ends early.
    """
    try:
        with path.open("rb") as f:
            version = _number(f, "I")
            if version != VERSION:
                raise ModelError(f"{path}: layout {version} of CTranslate2, version {VERSION} is wanted")
            _text(f)
            _number(f, "I")
            found = {}
            for _ in range(_number(f, "I")):
                name = _text(f)
                shape = tuple(_number(f, "I") for _ in range(_number(f, "B")))
                dtype, size = DTYPES.get(kind := _number(f, "B")), _number(f, "I")
                if not name.startswith(prefix):
                    f.seek(size, 1)
                elif dtype is None:
                    raise ModelError(f"{path}: {name} is of type {kind}, known are {DTYPES}")
                else:
                    found[name] = np.frombuffer(_exactly(f, size), dtype=f"<{np.dtype(dtype).str[1:]}").reshape(shape)
            return found
    except (EOFError, ValueError, struct.error) as e:
        raise ModelError(f"{path}: not a whole model.bin of CTranslate2: {e}") from e


def whisper_encoder(path: Path) -> dict[str, Tensor]:
    """Whisper's encoder, under the names of transformers' ``WhisperEncoder``, in the file's dtype.

    Raises:
        ModelError: as :func:`read_variables`, or a variable is missing.
    """
    found = {k.removeprefix("encoder/"): v for k, v in read_variables(path, "encoder/").items()}
    layers = sum(k.startswith("layer_") and k.endswith("/ffn/layer_norm/gamma") for k in found)
    names = {"conv1.weight": "conv1/weight", "conv1.bias": "conv1/bias"}
    names |= {"conv2.weight": "conv2/weight", "conv2.bias": "conv2/bias"}
    names |= {"embed_positions.weight": "position_encodings/encodings"} | _norm("layer_norm", "layer_norm")
    for i in range(layers):
        ours, theirs = f"layers.{i}", f"layer_{i}"
        names |= _norm(f"{ours}.self_attn_layer_norm", f"{theirs}/self_attention/layer_norm")
        names |= _linear(f"{ours}.self_attn.out_proj", f"{theirs}/self_attention/linear_1")
        names |= _norm(f"{ours}.final_layer_norm", f"{theirs}/ffn/layer_norm")
        names |= _linear(f"{ours}.fc1", f"{theirs}/ffn/linear_0") | _linear(f"{ours}.fc2", f"{theirs}/ffn/linear_1")
    try:
        state = {ours: found[theirs] for ours, theirs in names.items()}
        for i in range(layers):
            state |= _query_key_value(found, i)
    except KeyError as e:
        raise ModelError(f"{path}: no variable encoder/{e.args[0]}; is it a Whisper?") from e
    return {name: torch.from_numpy(value.copy()) for name, value in state.items()}


def _norm(ours: str, theirs: str) -> dict[str, str]:
    return {f"{ours}.weight": f"{theirs}/gamma", f"{ours}.bias": f"{theirs}/beta"}


def _linear(ours: str, theirs: str) -> dict[str, str]:
    return {f"{ours}.weight": f"{theirs}/weight", f"{ours}.bias": f"{theirs}/bias"}


def _query_key_value(found: Mapping[str, np.ndarray], layer: int) -> dict[str, np.ndarray]:
    """One matrix in CTranslate2. Whisper's keys have no bias: there it is 0."""
    where = f"layer_{layer}/self_attention/linear_0"
    weights, biases = np.split(found[f"{where}/weight"], 3), np.split(found[f"{where}/bias"], 3)
    if biases[1].any():
        raise ModelError(f"encoder/{where}: the keys have a bias, Whisper's have none")
    state = {f"layers.{layer}.self_attn.{n}_proj.weight": w for n, w in zip("qkv", weights, strict=True)}
    return state | {f"layers.{layer}.self_attn.{n}_proj.bias": biases["qkv".index(n)] for n in "qv"}


def _number(f: IO[bytes], kind: str) -> int:
    layout = f"<{kind}"
    return int(struct.unpack(layout, _exactly(f, struct.calcsize(layout)))[0])


def _text(f: IO[bytes]) -> str:
    return _exactly(f, _number(f, "H")).rstrip(b"\0").decode()


def _exactly(f: IO[bytes], size: int) -> bytes:
    content = f.read(size)
    if len(content) != size:
        raise EOFError(f"it ends {size - len(content)} bytes early")
    return content
