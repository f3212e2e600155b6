"""Whisper as the encoder: transformers' own results, padding and windows, lengths, traps, folders that do not fit."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import WhisperConfig, WhisperFeatureExtractor, WhisperModel
from transformers.models.whisper.modeling_whisper import sinusoids

from pipeline import flops
from pipeline.export.folder import export
from pipeline.frames import encoder_frames, windows
from pipeline.model.build import build_model, load_finished_run, load_tokenizer
from pipeline.model.encoders.whisper import read_checkpoint, whisper_conf
from pipeline.model.modeling_speakerlm import SpeakerLMForConditionalGeneration
from pipeline.model.processing_speakerlm import SpeakerLMProcessor
from pipeline.model.specaugment import mask_features
from pipeline.model.whisper_encoder import WhisperSpeechEncoder
from pipeline.model.whisper_frontend import WhisperFrontend
from pipeline.prompts import Mode
from pipeline.recipe.schema import EncoderConfig, ModelConfig
from pipeline.stages import STAGES
from pipeline.standins.encoder_folders import write_whisper_folder
from shards.errors import AudioError, ModelError
from tests.support.finished_runs import make_finished_run
from tests.support.packed import example, pack
from tests.support.tiny import TinyBase, model_config

CONF = {**whisper_conf(32, 2, 4), "max_source_positions": 30}  # windows of 10 frames
FULL = whisper_conf(32, 2, 4)


def waves(*samples: int) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(n, generator=generator) * torch.linspace(1e-4, 0.3, n) for n in samples]


@pytest.fixture
def encoder() -> WhisperSpeechEncoder:
    torch.manual_seed(0)
    return WhisperSpeechEncoder(CONF).eval()


@pytest.fixture
def features() -> torch.Tensor:
    return torch.randn(3, 25, 480, generator=torch.Generator().manual_seed(0))


# ----------------------------------------------------------------------------------------------------------- frontend


@pytest.mark.parametrize("n_mels", [80, 128])
def test_features_are_those_of_transformers(n_mels: int) -> None:
    frontend, reference = WhisperFrontend(n_mels), WhisperFeatureExtractor(feature_size=n_mels)
    several = waves(16000, 41234, 400, 16000 * 31 + 77)
    batch = torch.nn.utils.rnn.pad_sequence(several, batch_first=True, padding_value=0.7)  # any padding
    out, frames = frontend(batch, [len(w) for w in several])
    for i, wave in enumerate(several):
        whole = np.zeros(960 * frames[i], np.float32)
        whole[: len(wave)] = wave.numpy()[: len(whole)]
        expected = reference(whole, sampling_rate=16000, truncation=False, padding="longest").input_features[0]
        assert expected.shape == (n_mels, 6 * frames[i])
        found = out[i, : frames[i]].reshape(-1, n_mels).T
        assert np.abs(found.numpy() - expected).max() < 1e-4
        assert not out[i, frames[i] :].any()


def test_frames_are_those_of_the_plan() -> None:
    """Of every number of samples: what lengths.py counts, and never less than 25 ms or more than 35 ms off."""
    frontend = WhisperFrontend()
    for samples in (400, 1359, 1360, 1361, 2319, 2320, 16000, 48001, 800_000):
        out, frames = frontend(torch.zeros(1, samples), [samples])
        assert frames == [encoder_frames(samples)] == [out.shape[1]]
        assert -560 <= samples - 960 * frames[0] < 400
    with pytest.raises(AudioError, match="399 samples"):
        frontend(torch.zeros(2, 1000), [1000, 399])


def test_features_stay_fp32_and_the_input_is_left_alone() -> None:
    wave = waves(20000)[0][None]
    before = wave.clone()
    with torch.autocast("cpu", torch.bfloat16):
        out, _ = WhisperFrontend().bfloat16()(wave, [20000])
    assert out.dtype == torch.float32
    assert torch.equal(wave, before)
    assert torch.equal(out, WhisperFrontend()(wave, [20000])[0])


def test_masks_cover_whole_frames_and_the_same_band_in_each_of_their_features() -> None:
    features = torch.ones(1, 4, 480)
    out = mask_features(features, torch.tensor([[[1, 2]]]), torch.tensor([[[70, 80]]]), stacked=6).view(24, 80)
    assert not out[6:12].any()
    assert not out[:, 70:].any()
    assert out[:6, :70].all()


# ------------------------------------------------------------------------------------------------------------ encoder


def test_equal_to_transformers_where_it_takes_the_input() -> None:
    """30 s without padding, the only input that transformers' encoder takes."""
    torch.manual_seed(2)
    reference = tiny_whisper().encoder.eval()
    state = {k: v for k, v in reference.state_dict().items() if k != "embed_positions.weight"}
    ours = WhisperSpeechEncoder(FULL).eval()
    ours.load_state_dict(state)
    reference.embed_positions.weight.data.copy_(sinusoids(1500, 32))
    features = torch.randn(1, 500, 480)
    with torch.no_grad():
        expected = reference(features.view(1, 3000, 80).transpose(1, 2)).last_hidden_state
        found = ours(features, [500]).view(1, 1500, 32)
    assert (found - expected).abs().max() < 2e-4  # sines of 1500 rad, in fp32
    assert (found - expected)[:, :100].abs().max() < 1e-5


def tiny_whisper() -> WhisperModel:
    tokens = dict.fromkeys(("pad_token_id", "bos_token_id", "eos_token_id", "decoder_start_token_id"), 0)
    decoder = {"decoder_layers": 1, "decoder_ffn_dim": 32, "decoder_attention_heads": 4, "vocab_size": 64}
    return WhisperModel(WhisperConfig(**FULL, **decoder, **tokens))


@pytest.mark.parametrize("lengths", [[25, 7, 12], [10, 10, 3], [1, 9, 20]])
def test_a_padded_batch_equals_each_utterance_alone(
    encoder: WhisperSpeechEncoder, features: torch.Tensor, lengths: list[int]
) -> None:
    features = features[:, : max(lengths)]
    with torch.no_grad():
        together = encoder(features, lengths)
        assert together.shape == (3, max(lengths), 96)
        for i, n in enumerate(lengths):
            alone = encoder(features[i : i + 1, :n], [n])
            assert (together[i, :n] - alone[0]).abs().max() < 1e-5
            assert not together[i, n:].any()


def test_each_window_is_encoded_by_itself_from_position_0(
    encoder: WhisperSpeechEncoder, features: torch.Tensor
) -> None:
    assert windows(25, 10) == [(0, 9), (9, 18), (18, 25)]
    assert windows(20, 10) == [(0, 10), (10, 20)]
    assert windows(833, 500) == [(0, 417), (417, 833)]  # 50 s
    with torch.no_grad():
        whole = encoder(features[:1], [25])[0]
        for begin, end in windows(25, 10):
            part = encoder(features[:1, begin:end], [end - begin])[0]
            assert (whole[begin:end] - part).abs().max() < 1e-5


def test_every_module_runs_once_whatever_the_batch_holds(encoder: WhisperSpeechEncoder, features: torch.Tensor) -> None:
    """Each call is a collective under ZeRO-3: ranks with other micro-batches must make the same ones."""
    calls: list[str] = []
    for name, module in encoder.named_modules():
        if not list(module.children()) and list(module.parameters()):
            module.register_forward_hook(lambda *_, name=name: calls.append(name))
    encoder(features, [25, 7, 12])
    many, calls[:] = list(calls), []
    encoder(features[:1, :2], [2])
    assert many == calls
    assert len(many) == len(set(many))


def test_bf16_weights_run_and_stay_close(encoder: WhisperSpeechEncoder, features: torch.Tensor) -> None:
    before = features.clone()
    with torch.no_grad():
        expected = encoder(features, [25, 7, 12])
        out = encoder.bfloat16()(features, [25, 7, 12])
    assert torch.equal(features, before)
    assert out.dtype == torch.bfloat16
    assert (out.float() - expected).norm() / expected.norm() < 0.03


def test_gradients_with_and_without_checkpointing_agree(encoder: WhisperSpeechEncoder, features: torch.Tensor) -> None:
    encoder(features, [25, 7, 12])[0].square().sum().backward()
    expected = [p.grad.clone() for p in encoder.parameters()]
    assert all(g.any() for g in expected[:2])
    encoder.zero_grad()
    encoder.activation_checkpointing = True
    encoder(features, [25, 7, 12])[0].square().sum().backward()
    for p, e in zip(encoder.parameters(), expected, strict=True):
        assert torch.allclose(p.grad, e, atol=1e-5)


# ------------------------------------------------------------------------------------------------------------ folders


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A whole tiny Whisper as transformers saves it, decoder included."""
    torch.manual_seed(4)
    where = tmp_path_factory.mktemp("whisper")
    model = tiny_whisper()
    model.encoder.embed_positions.weight.data.copy_(sinusoids(1500, 32))
    model.half().save_pretrained(str(where))
    return where


def test_a_folder_that_transformers_wrote_is_read(folder: Path, tmp_path: Path) -> None:
    source = read_checkpoint(folder)
    encoder = WhisperSpeechEncoder(source.encoder_conf)
    encoder.load_checkpoint(source)
    again = read_checkpoint(write_whisper_folder(tmp_path / "own", encoder.state_dict(), source.encoder_conf))
    assert again.encoder_conf == source.encoder_conf
    assert again.encoder_state().keys() == encoder.state_dict().keys()
    other = WhisperSpeechEncoder(again.encoder_conf)
    other.load_checkpoint(again)
    assert all(torch.equal(a, b) for a, b in zip(encoder.parameters(), other.parameters(), strict=True))


def test_a_folder_that_does_not_fit_is_refused(folder: Path, tmp_path: Path) -> None:
    source = read_checkpoint(folder)
    deeper = WhisperSpeechEncoder({**source.encoder_conf, "encoder_layers": 3})
    with pytest.raises(ModelError, match=r"missing layers\.2\."):
        deeper.load_checkpoint(source)
    state = {**source.encoder_state(), "embed_positions.weight": torch.randn(1500, 32)}
    trained = read_checkpoint(write_whisper_folder(tmp_path, state, source.encoder_conf))
    with pytest.raises(ModelError, match="trained positions"):
        WhisperSpeechEncoder(source.encoder_conf).load_checkpoint(trained)
    with pytest.raises(ModelError, match="does not know output_size"):
        WhisperSpeechEncoder({"output_size": 3})
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(ModelError, match=r"no \*\.safetensors"):
        read_checkpoint(tmp_path).encoder_state()
    (tmp_path / "config.json").write_text('{"model_type": "qwen2"}')
    with pytest.raises(ModelError, match="model_type is not whisper"):
        read_checkpoint(tmp_path)


# ---------------------------------------------------------------------------------------------------------- the model


@pytest.fixture(scope="module")
def cfg(base: TinyBase, folder: Path) -> ModelConfig:
    plain = model_config(base)
    encoder = EncoderConfig(type="whisper", checkpoint=str(folder), dropout=0.0)
    return dataclasses.replace(plain, encoder=encoder)


def batch(cfg: ModelConfig) -> dict[str, Any]:
    examples = [
        example(Mode.MATCH, ("Mike", "Lucy"), "Mike: hi\nLucy: fine", 48000, seed=1),
        example(Mode.NO, (), "spk0: 你好，世界", 24000, seed=2),
    ]
    return pack(examples, load_tokenizer(cfg))


@pytest.mark.parametrize("number", sorted(STAGES))
def test_the_stages_train_what_they_should(cfg: ModelConfig, number: int) -> None:
    model = build_model(cfg)
    names = model.trainable(STAGES[number].trains)
    model.train()
    model(**batch(cfg)).loss.backward()
    assert {n for n, p in model.named_parameters() if p.grad is not None} == set(names)
    assert any(n.startswith("encoder.conv1.") for n in names) == ("encoder" in STAGES[number].trains)


def test_an_exported_run_generates_what_the_run_does(cfg: ModelConfig, tmp_path: Path) -> None:
    run = make_finished_run(tmp_path / "run", cfg)
    model, tokenizer, _ = load_finished_run(run)
    folder = export(run, tmp_path / "out", merge=True)
    assert "Needs transformers and torch." in (folder / "README.md").read_text()
    again = SpeakerLMForConditionalGeneration.from_pretrained(str(folder)).eval()
    processor = SpeakerLMProcessor(tokenizer, cfg.projector.stride, cfg.speaker_dim)
    inputs = processor([w.numpy() for w in waves(30000, 16000 * 33)])
    ends = {"max_new_tokens": 8, "eos_token_id": tokenizer.eos, "pad_token_id": tokenizer.pad}
    assert torch.equal(again.generate(**inputs, **ends), model.eval().generate(**inputs, **ends))


def test_operations_are_those_that_torch_counts(cfg: ModelConfig) -> None:
    """Convolutions and matrix products of the encoder; torch counts CPU attention as nothing."""
    model = build_model(cfg)
    sizes = flops.Sizes.of(model)
    lengths = [48000, 24000]
    held = tuple(map(encoder_frames, lengths))
    load = flops.Load(samples=(1,), frames=held, audio_positions=0, speakers=0, targets=0)
    without_attention = dataclasses.replace(sizes, encoder_width=0, projector=0, llm=0, lora=0)
    ours = flops.count(without_attention, load, (), False, backward=False).hardware
    features, frames = model.frontend(torch.zeros(2, 48000), lengths)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model.encoder(features, frames)
    counted = {str(op): n for op, n in counter.get_flop_counts()["Global"].items()}
    attention = sum(n for op, n in counted.items() if "attention" in op)
    assert sum(counted.values()) - attention == pytest.approx(ours, rel=0.01)
    assert sizes.encoder_window == 500


def test_windows_cost_less_attention_than_one_long_utterance() -> None:
    load = flops.Load(samples=(1,), frames=(25, 7), audio_positions=0, speakers=0, targets=0)
    assert load.in_windows(None) == ((32, 625 + 49), (50, 2 * 625))
    assert load.in_windows(10) == ((32, 81 + 81 + 49 + 49), (4 * 9, 4 * 81))
