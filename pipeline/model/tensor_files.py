"""Tensors by name in safetensors files, read one at a time."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from shards.errors import ModelError

if TYPE_CHECKING:
    import torch
    from torch import Tensor

INDEX = "model.safetensors.index.json"


class TensorFiles:
    """Tensors by name; each file is opened for one tensor alone, so nothing stays in memory."""

    def __init__(self, where: Mapping[str, Path], keys: Mapping[str, str] | None = None) -> None:
        """Take the file of each name; ``keys``: the names in the files, where they are others."""
        self._where, self._keys = where, keys or {}

    @classmethod
    def of_folder(cls, folder: Path) -> TensorFiles:
        """All tensors of a checkpoint in the Hugging Face layout.

        Raises:
            ModelError: a file that its index names is missing.
            FileNotFoundError: there is no safetensors file at all.
        """
        index = folder / INDEX
        if index.is_file():
            weight_map = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
            if missing := sorted({f for f in weight_map.values() if not (folder / f).is_file()}):
                raise ModelError(f"{folder}: {INDEX} names {', '.join(missing)}, which is missing: download it again")
            return cls({name: folder / file for name, file in weight_map.items()})
        files = sorted(folder.glob("*.safetensors"))
        if not files:
            raise FileNotFoundError(f"{folder}: no *.safetensors")
        return cls({name: path for path in files for name in cls.of_file(path)})

    @classmethod
    def of_file(cls, path: Path) -> TensorFiles:
        """All tensors of one file."""
        with open_tensors(path) as f:
            return cls(dict.fromkeys(f.keys(), path))

    def __iter__(self) -> Iterator[str]:
        return iter(self._where)

    def __contains__(self, name: str) -> bool:
        return name in self._where

    def __getitem__(self, name: str) -> Tensor:
        with open_tensors(self._where[name]) as f:
            tensor: Tensor = f.get_tensor(self._keys.get(name, name))
            return tensor

    def shape(self, name: str) -> tuple[int, ...]:
        """Shape, without reading the values."""
        with open_tensors(self._where[name]) as f:
            return tuple(f.get_slice(self._keys.get(name, name)).get_shape())

    def dtype(self, name: str) -> torch.dtype:
        """Type of the elements, without reading them."""
        with open_tensors(self._where[name]) as f:
            found: torch.dtype = f.get_slice(self._keys.get(name, name))[:0].dtype
            return found

    def renamed(self, rename: Callable[[str], str | None]) -> TensorFiles:
        """The same tensors under other names; those renamed to None are omitted."""
        new = {name: rename(name) for name in self._where}
        kept = {name: found for name, found in new.items() if found is not None}
        keys = {found: self._keys.get(name, name) for name, found in kept.items()}
        return TensorFiles({found: self._where[name] for name, found in kept.items()}, keys)

    def check(self) -> None:
        """Raise ModelError unless every file can be opened and holds what is read from it."""
        by_file: dict[Path, set[str]] = {}
        for name, path in self._where.items():
            by_file.setdefault(path, set()).add(self._keys.get(name, name))
        for path, names in by_file.items():
            with open_tensors(path) as f:
                if missing := sorted(names - set(f.keys())):
                    raise ModelError(f"{path} lacks {missing[0]}, which {INDEX} says it holds: download it again")

    def state(self, names: Iterable[str] | None = None) -> dict[str, Tensor]:
        """Read tensors, by default all."""
        return {name: self[name] for name in (self if names is None else names)}


def open_tensors(path: Path) -> Any:
    """A safetensors file; values are read when asked for.

    Raises:
        ModelError: it is missing or damaged.
    """
    from safetensors import SafetensorError, safe_open

    try:
        return safe_open(str(path), framework="pt")
    except FileNotFoundError as e:
        raise ModelError(f"{path}: no such file") from e
    except SafetensorError as e:
        raise ModelError(f"{path} is damaged: {e}") from e
