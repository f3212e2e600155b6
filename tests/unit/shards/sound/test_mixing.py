"""Several channels to one."""

import logging
from pathlib import Path

import numpy as np
import pytest
import soundfile

from pipeline.transcribe.audio_stream import blocks
from shards.sound.audio import load
from shards.sound.mixing import OUT_OF_PHASE, to_mono
from tests.support.manifests import tone


@pytest.mark.parametrize("gain", [-1.0, -0.9])
def test_channels_out_of_phase_are_not_mixed_to_silence(tmp_path: Path, caplog, gain: float) -> None:
    path, left = tmp_path / "a.wav", tone(12.0)
    soundfile.write(path, np.stack([left, gain * left], 1), 16_000, subtype="FLOAT")
    notes: list[str] = []
    np.testing.assert_allclose(load(path, note=notes.append), left, atol=1e-6)
    np.testing.assert_allclose(np.concatenate(list(blocks(path, note=notes.append))), left, atol=1e-6)
    assert notes == [f"{path}: {OUT_OF_PHASE}", f"{path}: {OUT_OF_PHASE}, from 0.0 s on"]
    with caplog.at_level(logging.WARNING):
        load(path)
    assert OUT_OF_PHASE in caplog.text
    assert load(path, channel=1)[100] == pytest.approx(gain * left[100], abs=1e-6)


def test_a_constant_offset_hides_no_cancellation(tmp_path: Path) -> None:
    """The mean of both is the offset, as loud as speech, and silence otherwise."""
    path, left = tmp_path / "a.wav", tone(4.0)
    soundfile.write(path, np.stack([left + 0.1, 0.1 - left], 1), 16_000, subtype="FLOAT")
    np.testing.assert_allclose(load(path), left + 0.1, atol=1e-6)
    np.testing.assert_allclose(np.concatenate(list(blocks(path))), left + 0.1, atol=1e-6)


@pytest.mark.parametrize("channels", [2, 8, 64])
@pytest.mark.parametrize("kind", ["equal", "unrelated", "one silent", "silence"])
def test_other_channels_are_averaged(channels: int, kind: str) -> None:
    noise = np.random.default_rng(0).standard_normal((16_000, channels)).astype(np.float32)
    wave = {"equal": noise[:, :1].repeat(channels, 1), "unrelated": noise, "silence": 0 * noise}.get(kind)
    if wave is None:
        wave = noise[:, :1] * np.eye(1, channels, dtype=np.float32)
    mono, taken = to_mono(wave, None)
    assert taken is None
    np.testing.assert_array_equal(mono, wave.mean(axis=1, dtype=np.float32))
