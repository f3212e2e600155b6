"""The frontend against FunASR's, and a padded batch against each utterance alone."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from pipeline.frames import fbank_frames, lfr_frames
from pipeline.model.encoders.sensevoice import FRONTEND_CONF
from pipeline.model.sensevoice_frontend import Frontend
from pipeline.standins.encoder_folders import write_mvn
from shards.corpora.packaged_speech import PACKAGES
from shards.errors import AudioError, ModelError
from shards.sound.audio import load
from shards.weights.fetch import fetch_debian
from tests.support.fbank import fbank64
from tests.support.speech import package_cache

EN = "asterisk-core-sounds-en-g722"
SHIFT, SCALE = [-8.0 + 0.001 * i for i in range(560)], [0.2 + 0.0001 * i for i in range(560)]


def speech_like(samples: int, seed: int) -> torch.Tensor:
    """Harmonics under a changing envelope over faint noise, with a stretch of digital silence."""
    generator = torch.Generator().manual_seed(seed)
    t = torch.arange(samples) / 16000
    pitch = 2 * torch.pi * (120 + 40 * torch.sin(3 * t)).cumsum(0) / 16000
    wave = sum(torch.sin(k * pitch) / k for k in range(1, 20)) * (0.1 + 0.09 * torch.sin(9 * t))
    wave = wave + 1e-3 * torch.randn(samples, generator=generator)
    wave[samples // 2 : samples // 2 + 1000] = 0
    return (wave * 32768).round().clamp(-32768, 32767) / 32768


@pytest.fixture(scope="module")
def frontend() -> Frontend:
    return Frontend(SHIFT, SCALE, FRONTEND_CONF)


@pytest.mark.parametrize("samples", [400, 559, 560, 1200, 1360, 1520, 1680, 1840, 16000, 48123])
def test_equal_to_funasr(frontend: Frontend, tmp_path: Path, samples: int) -> None:
    from funasr.frontends import wav_frontend

    write_mvn(tmp_path / "am.mvn", SHIFT, SCALE)
    reference = wav_frontend.WavFrontend(**{**FRONTEND_CONF, "cmvn_file": str(tmp_path / "am.mvn"), "dither": 0.0})
    wave = speech_like(samples, seed=samples)
    expected, length = reference(wave[None], torch.tensor([samples]))
    features, frames = frontend(wave[None], [samples])
    assert frames == [int(length[0])] == [lfr_frames(fbank_frames(samples))]
    # In units of log mel energy: the features are these, scaled.
    worst = ((features - expected).abs() / torch.tensor(SCALE)).max().item()
    assert worst <= 2e-3, worst


def test_equal_to_funasr_on_real_speech() -> None:
    """2e-3 wherever a band is within 100 dB of its frame's loudest; below that FunASR's own fp32 rounding is larger.

    All values are held to the formula in fp64, to which this frontend is a thousand times closer than FunASR's.
    """
    from funasr.frontends import wav_frontend

    packages = [p for p in PACKAGES if p.name in ("gcin-voice", "asterisk-prompt-it-menardi-wav", EN)]
    folders = fetch_debian(packages, package_cache())
    files = sorted(f for folder in folders.values() for e in ("wav", "ogg", "g722") for f in folder.rglob(f"*.{e}"))
    plain = {**FRONTEND_CONF, "lfr_m": 1, "lfr_n": 1, "dither": 0.0}
    reference = wav_frontend.WavFrontend(**plain)
    ours = Frontend([0.0] * 560, [1.0] * 560, FRONTEND_CONF)
    values = beyond = 0
    for file in [*files[::60], *(f for f in files if f.name == "privacy-prompt.g722")]:
        wave = torch.from_numpy(load(file))
        found = ours._fbank(wave[None], [fbank_frames(len(wave))]).double().numpy()
        expected = reference(wave[None], torch.tensor([len(wave)]))[0][0].double().numpy()
        exact = fbank64(wave.numpy())
        assert np.abs(found - exact).max() <= 1e-5, file
        off = np.abs(found - expected)
        audible = exact >= exact.max(1, keepdims=True) - np.log(1e10)
        assert off[audible].max() <= 2e-3, file
        values, beyond = values + off.size, beyond + int((off > 2e-3).sum())
    assert values > 500_000
    assert beyond == 1  # of privacy-prompt: 4.1e-3, all of it FunASR's distance to the formula


def test_a_padded_batch_equals_each_utterance_alone(frontend: Frontend) -> None:
    lengths = [16000, 5000, 401, 12345]
    waves = [speech_like(n, seed=n) for n in lengths]
    batch = torch.nn.utils.rnn.pad_sequence(waves, batch_first=True)
    together, frames = frontend(batch, lengths)
    for i, wave in enumerate(waves):
        alone, (count,) = frontend(wave[None], [lengths[i]])
        assert count == frames[i]
        assert (together[i, :count] - alone[0]).abs().max() < 1e-5
        assert not together[i, count:].any()


def test_constants_do_not_follow_a_cast(frontend: Frontend) -> None:
    wave = speech_like(8000, seed=1)[None]
    before, _ = frontend(wave, [8000])
    frontend.bfloat16()
    after, _ = frontend(wave.bfloat16().float(), [8000])
    assert after.dtype == torch.float32
    assert torch.equal(frontend(wave, [8000])[0], before)


def test_too_short_audio_says_how_much_is_needed(frontend: Frontend) -> None:
    with pytest.raises(AudioError, match="399 samples; at least 400"):
        frontend(torch.zeros(2, 16000), [16000, 399])


def test_another_frontend_is_refused() -> None:
    with pytest.raises(ModelError, match="lfr_n=5"):
        Frontend(SHIFT, SCALE, {**FRONTEND_CONF, "lfr_n": 5})
