"""Speaker models that are funasr networks with published weights. torch and funasr are imported at the first use."""

from __future__ import annotations

import hashlib
import pickle
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from shards.errors import ModelError
from shards.voices.features import FEATURES, log_mel, unit_norm
from shards.voices.funasr_modules import funasr_module
from shards.voices.vector_cache import VectorCache
from shards.weights.hashes import sha256_of

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

    On the CPU vectors are kept on disk, by a hash of all that their bytes depend on: audio or features, weights,
    versions of code, torch's number of threads, the processor's instructions. So processes and datasets that share
    enrolment clips embed each of them once, and the network is built only if a clip is new. On an accelerator bytes
    depend on the batch too: there nothing is kept.
    """

    def __init__(
        self, name: str, build: Callable[[], Any], checkpoint: Path, dim: int, cache: Path | None, device: str = "cpu"
    ) -> None:
        """Hash the weights; they are read at the first use. Without ``cache`` no vector is kept on disk."""
        self.id, self.dim, self.sha256 = name, dim, sha256_of(checkpoint)
        self._build, self.checkpoint, self.device = build, checkpoint, device
        self._cache = VectorCache(cache) if cache else None

    @cached_property
    def network(self) -> Any:
        """The network with its weights.

        Raises:
            ModelError: damaged weights, or those of another architecture.
        """
        import torch

        network = self._build()
        try:
            if self.checkpoint.suffix == ".safetensors":
                from safetensors.torch import load_file

                weights = load_file(self.checkpoint)
            else:
                weights = torch.load(self.checkpoint, map_location="cpu", weights_only=True)
            network.load_state_dict(weights, strict=True)
        except (RuntimeError, OSError, ValueError, TypeError, AttributeError, pickle.UnpicklingError) as error:
            first = " ".join(str(error).split()[:40])
            raise ModelError(
                f"{self.checkpoint}: not weights of {self.id}: {first} … Name the architecture that they belong to."
            ) from error
        return network.eval().requires_grad_(False).to(self.device)

    def embed(self, waves: Sequence[np.ndarray]) -> np.ndarray:
        """Embed waves one by one, without padding, which would enter the pooled statistics: (n, dim) float32."""
        return self._unit([self._vector(wave, partial(log_mel, wave)) for wave in waves])

    def _unit(self, vectors: list[np.ndarray]) -> np.ndarray:
        return unit_norm(np.array(vectors, np.float32).reshape(-1, self.dim))

    def _vector(self, given: np.ndarray, features: Callable[[], np.ndarray]) -> np.ndarray:
        """Return the raw vector of features (frames, 80) by itself, from the cache if it is there.

        Args:
            given: the wave (n,), or the features: what the vector is kept by.
        """
        if self.device != "cpu" or self._cache is None:
            return self.forward(features()[None])[0]
        import torch

        sums = (torch.backends.cpu.get_cpu_capability(), torch.get_num_threads())  # they change the last bits
        code = (version("torch"), version("kaldi-native-fbank"), FEATURES)
        key = hashlib.sha256(f"{self.sha256} {code} {sums} {given.shape}".encode())
        key.update(np.ascontiguousarray(given, "<f4").tobytes())
        vector = self._cache.get(key.hexdigest())
        if vector is None or vector.shape != (self.dim,):
            vector = self.forward(features()[None])[0]
            self._cache.put(key.hexdigest(), vector)
        return vector

    def embed_features(self, features: Sequence[np.ndarray]) -> np.ndarray:
        """Embed features: (n, dim) float32. On an accelerator in batches of equal length, without padding.

        On the CPU one by one, so that a vector's bytes do not depend on the batch; batches are no faster there.
        """
        if self.device == "cpu":
            return self._unit([self._vector(f, partial(np.asarray, f)) for f in features])
        by_length: dict[int, list[int]] = {}
        for number, f in enumerate(features):
            by_length.setdefault(len(f), []).append(number)
        found = np.empty((len(features), self.dim), np.float32)
        for numbers in by_length.values():
            for first in range(0, len(numbers), BATCH):
                batch = numbers[first : first + BATCH]
                found[batch] = self.forward(np.stack([features[i] for i in batch]))
        return unit_norm(found)

    def forward(self, features: np.ndarray) -> np.ndarray:
        """Run the network: (batch, frames, 80) → (batch, dim)."""
        import torch

        with torch.inference_mode():
            vectors: np.ndarray = self.network(torch.from_numpy(features).to(self.device)).float().cpu().numpy()
        return vectors
