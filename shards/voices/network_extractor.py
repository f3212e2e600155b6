"""Speaker models that are funasr networks with published weights. torch and funasr are imported at the first use."""

from __future__ import annotations

import contextlib
import hashlib
import pickle
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from shards.errors import ModelError, StorageError
from shards.storage.local import LocalStorage
from shards.voices.features import log_mel, unit_norm
from shards.voices.funasr_modules import funasr_module
from shards.weights.fetch import sha256_of

BATCH = 64  # of equal length, on an accelerator
PUBLISHED = {  # weight file → id; the id of other weights holds their hash
    "campplus_cn_en_common.pt": "campplus_cn_en_common",
    "campplus_cn_common.bin": "campplus_cn_common",
    "campplus_voxceleb.bin": "campplus_voxceleb",
    "pretrained_eres2netv2.ckpt": "eres2netv2",
    "pretrained_eres2netv2w24s4ep4.ckpt": "eres2netv2w24s4ep4",
}


@dataclass(frozen=True)
class Architecture:
    """A network class of funasr and its arguments."""

    module: str
    name: str
    options: dict[str, int]
    dim: int

    def build(self) -> Any:
        """Return the network with random weights."""
        return getattr(funasr_module(self.module), self.name)(**self.options)


def load_network(name: str, architecture: Architecture, weights: Path, device: str, cache: Path) -> NetworkExtractor:
    """Return the extractor of an architecture and a weight file. The network is built at its first use."""
    found = NetworkExtractor(name, architecture.build, weights, architecture.dim, cache / "embeddings", device)
    found.id = PUBLISHED.get(weights.name, f"{name}-{found.sha256[:8]}")
    return found


class NetworkExtractor:
    """A network (batch, frames, 80) → (batch, dim) in eval mode, with its weights loaded strictly.

    Vectors are cached on disk by a hash of weights, torch version and audio: processes and datasets that share
    enrolment clips embed each of them once, and the network is built only if a clip is new.
    """

    def __init__(
        self, name: str, build: Callable[[], Any], checkpoint: Path, dim: int, cache: Path, device: str = "cpu"
    ) -> None:
        self.id, self.dim, self.sha256 = name, dim, sha256_of(checkpoint)
        self._build, self._checkpoint, self._cache, self._device = build, checkpoint, cache, device

    @cached_property
    def network(self) -> Any:
        """The network with its weights.

        Raises:
            ModelError: damaged weights, or those of another architecture.
        """
        import torch

        network = self._build()
        try:
            if self._checkpoint.suffix == ".safetensors":
                from safetensors.torch import load_file

                weights = load_file(self._checkpoint)
            else:
                weights = torch.load(self._checkpoint, map_location="cpu", weights_only=True)
            network.load_state_dict(weights, strict=True)
        except (RuntimeError, OSError, ValueError, TypeError, AttributeError, pickle.UnpicklingError) as error:
            first = " ".join(str(error).split()[:40])
            raise ModelError(
                f"{self._checkpoint}: not weights of {self.id}: {first} … Name the architecture that they belong to."
            ) from error
        return network.eval().requires_grad_(False).to(self._device)

    def embed(self, waves: Sequence[np.ndarray]) -> np.ndarray:
        """Embed waves one by one, without padding, which would enter the pooled statistics: (n, dim) float32."""
        return unit_norm(np.stack([self._cached(wave) for wave in waves]))

    def _cached(self, wave: np.ndarray) -> np.ndarray:
        content = hashlib.sha256(f"{self.sha256} torch {version('torch')}".encode())
        content.update(np.ascontiguousarray(wave, "<f4").tobytes())
        digest = content.hexdigest()
        path = self._cache / digest[:2] / f"{digest[2:]}.f4"
        if path.is_file():
            vector = np.frombuffer(path.read_bytes(), "<f4")
            if vector.shape == (self.dim,):
                return vector
        vector = self._run(wave)
        with contextlib.suppress(StorageError):  # without the cache it is only slower
            LocalStorage(path.parent).write_atomic(path.name, vector.astype("<f4").tobytes())
        return vector

    def _run(self, wave: np.ndarray) -> np.ndarray:
        return self.forward(log_mel(wave)[None])[0]

    def embed_features(self, features: Sequence[np.ndarray]) -> np.ndarray:
        """Embed features: (n, dim) float32. On an accelerator in batches of equal length, without padding.

        On the CPU one by one, so that a vector's bytes do not depend on the batch; batches are no faster there.
        """
        by_length: dict[int, list[int]] = {}
        for number, f in enumerate(features):
            by_length.setdefault(len(f), []).append(number)
        size = 1 if self._device == "cpu" else BATCH
        found = np.empty((len(features), self.dim), np.float32)
        for numbers in by_length.values():
            for first in range(0, len(numbers), size):
                batch = numbers[first : first + size]
                found[batch] = self.forward(np.stack([features[i] for i in batch]))
        return unit_norm(found)

    def forward(self, features: np.ndarray) -> np.ndarray:
        """Run the network: (batch, frames, 80) → (batch, dim)."""
        import torch

        with torch.inference_mode():
            vectors: np.ndarray = self.network(torch.from_numpy(features).to(self._device)).float().cpu().numpy()
        return vectors
