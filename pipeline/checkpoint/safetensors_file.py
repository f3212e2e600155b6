"""Write safetensors one tensor at a time: a file of any size in the memory of its largest tensor.

safetensors' own ``save_file`` takes all tensors of a file at once. The format is an 8-byte little-endian length, a JSON
header with dtype, shape and byte range of every tensor, and the bytes (https://github.com/huggingface/safetensors).
"""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

from shards.errors import ModelError

if TYPE_CHECKING:
    from torch import Tensor

NAMES = {
    "float64": "F64", "float32": "F32", "float16": "F16", "bfloat16": "BF16",
    "int64": "I64", "int32": "I32", "int16": "I16", "int8": "I8", "uint8": "U8", "bool": "BOOL",
}  # fmt: skip


@dataclass(frozen=True)
class LazyTensor:
    """A tensor whose values are read when they are written."""

    name: str
    dtype: Any  # torch.dtype
    shape: tuple[int, ...]
    read: Callable[[], Tensor]

    @property
    def bytes(self) -> int:
        """Size in a file."""
        return prod(self.shape) * int(self.dtype.itemsize)


def write_tensors(path: Path, tensors: Sequence[LazyTensor], metadata: Mapping[str, str]) -> Iterator[LazyTensor]:
    """Write one file; yields each tensor after it is written, so that a caller can report progress.

    Raises:
        ModelError: a tensor read is not of the dtype and shape announced.
    """
    header: dict[str, Any] = {"__metadata__": dict(metadata)}
    end = 0
    for t in tensors:
        kind = NAMES[str(t.dtype).removeprefix("torch.")]
        header[t.name] = {"dtype": kind, "shape": list(t.shape), "data_offsets": [end, end + t.bytes]}
        end += t.bytes
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # tensors begin at a multiple of 8
    with path.open("wb") as f:
        f.write(struct.pack("<Q", len(text)) + text)
        for t in tensors:
            _write(f, t)
            yield t
        f.flush()
        os.fsync(f.fileno())


def _write(f: Any, announced: LazyTensor) -> None:
    import torch

    tensor = announced.read()
    if tensor.dtype != announced.dtype or tuple(tensor.shape) != announced.shape:
        raise ModelError(
            f"{announced.name} is {tensor.dtype} {tuple(tensor.shape)}, its checkpoint announced {announced.dtype} "
            f"{announced.shape}: the file changed while it was read"
        )
    f.write(tensor.contiguous().flatten().view(torch.uint8).numpy())


def split(tensors: Sequence[LazyTensor], largest: int) -> list[list[LazyTensor]]:
    """Files of at most ``largest`` bytes, in order; a tensor larger than that is alone in its file."""
    files: list[list[LazyTensor]] = [[]]
    for t in tensors:
        if files[-1] and sum(x.bytes for x in files[-1]) + t.bytes > largest:
            files.append([])
        files[-1].append(t)
    return files


def write_sharded(folder: Path, tensors: Sequence[LazyTensor], largest: int) -> Iterator[LazyTensor]:
    """``model.safetensors``, or numbered files with their index, as transformers reads them. Yields as it writes."""
    files = split(tensors, largest)
    n = len(files)
    names = ["model.safetensors"] if n == 1 else [f"model-{i:05d}-of-{n:05d}.safetensors" for i in range(1, n + 1)]
    for name, content in zip(names, files, strict=True):
        yield from write_tensors(folder / name, content, {"format": "pt"})
    if n > 1:
        where = {t.name: name for name, content in zip(names, files, strict=True) for t in content}
        index = {"metadata": {"total_size": sum(t.bytes for t in tensors)}, "weight_map": where}
        (folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=1), encoding="utf-8")
