"""FunASR's encoder: the three traps, padding, checkpoints that do not fit."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch._dynamo.utils import counters

from pipeline.model.build_encoder import compile_blocks
from pipeline.model.encoders.sensevoice import read_checkpoint, sensevoice_conf
from pipeline.model.sensevoice_encoder import FunasrEncoder, encoder_class, sinusoidal_positions
from pipeline.preflight.live_memory import LiveBytes
from pipeline.standins.random_models import make_encoder
from shards.errors import ModelError


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_encoder(tmp_path_factory.mktemp("encoder"), 64, 3, 2, seed=3)


@pytest.fixture
def encoder(folder: Path) -> FunasrEncoder:
    source = read_checkpoint(folder)
    encoder = FunasrEncoder(source.class_name, source.encoder_conf)
    encoder.load_checkpoint(source)
    return encoder.eval()


@pytest.fixture
def features() -> torch.Tensor:
    return torch.randn(2, 40, 560, generator=torch.Generator().manual_seed(0)) * 0.3


def test_equal_to_funasrs_own_forward(encoder: FunasrEncoder, folder: Path, features: torch.Tensor) -> None:
    source = read_checkpoint(folder)
    theirs = encoder_class(source.class_name)(input_size=560, **source.encoder_conf).eval()
    theirs.load_state_dict(encoder.backbone.state_dict())
    with torch.no_grad():
        expected, lengths = theirs(features.clone(), torch.tensor([40, 25]))
        out = encoder(features, [40, 25])
    assert lengths.tolist() == [40, 25]
    assert (out[0] - expected[0]).abs().max() < 1e-5
    assert (out[1, :25] - expected[1, :25]).abs().max() < 1e-5


def test_gradients_are_those_of_funasrs_attention(encoder: FunasrEncoder, features: torch.Tensor) -> None:
    slope = torch.randn(40, encoder.output_size, generator=torch.Generator().manual_seed(1))
    (encoder(features, [40, 25])[0] * slope).sum().backward()
    ours = [p.grad.clone() for p in encoder.parameters()]
    encoder.zero_grad()
    attentions = [m for m in encoder.modules() if type(m).__name__ == "MultiHeadedAttentionSANM"]
    assert len(attentions) == encoder.blocks
    for attention in attentions:
        del attention.forward  # the class's own
    (encoder(features, [40, 25])[0] * slope).sum().backward()
    for a, p in zip(ours, encoder.parameters(), strict=True):
        assert torch.allclose(a, p.grad, rtol=1e-3, atol=1e-4 * float(p.grad.abs().max()))


def test_no_block_holds_scores_of_frames_by_frames(encoder: FunasrEncoder) -> None:
    peaks = []
    for frames in (300, 900):
        with LiveBytes() as live, torch.no_grad():
            encoder(torch.randn(1, frames, 560) * 0.3, [frames])
        peaks.append(live.peak)
    assert peaks[1] < 3.3 * peaks[0]  # with scores it would be 6 times as much


def test_each_feed_forward_has_an_activation_of_its_own(encoder: FunasrEncoder) -> None:
    """DeepSpeed hooks a module once for each path that leads to it."""
    activations = [m.activation for m in encoder.modules() if hasattr(m, "activation")]
    assert len(activations) == encoder.blocks == len({id(a) for a in activations})


@pytest.mark.parametrize("recompute", [False, True])
def test_compiled_blocks_give_the_same_from_one_graph_a_shape_of_block(
    encoder: FunasrEncoder, features: torch.Tensor, recompute: bool
) -> None:
    """Without a code generator: dynamo and autograd's tracing are what could differ."""
    encoder.activation_checkpointing = recompute
    expected = encoder(features, [40, 25])
    expected.sum().backward()
    gradients = [p.grad.clone() for p in encoder.parameters()]
    encoder.zero_grad()
    torch._dynamo.reset()
    counters.clear()
    compile_blocks(encoder, "aot_eager")
    out = encoder(features, [40, 25])
    out.sum().backward()
    assert torch.allclose(out, expected, atol=1e-5)
    for p, gradient in zip(encoder.parameters(), gradients, strict=True):
        assert torch.allclose(p.grad, gradient, atol=1e-4)
    encoder(torch.cat([features, features], 1), [80, 25])
    assert counters["stats"]["unique_graphs"] <= 3  # the first block, whose input is wider, and the others
    assert not counters["graph_break"]


def test_the_input_is_left_alone(encoder: FunasrEncoder, features: torch.Tensor) -> None:
    before = features.clone()
    encoder(features, [40, 25])
    assert torch.equal(features, before)


def test_bf16_weights_run_and_stay_close(encoder: FunasrEncoder, features: torch.Tensor) -> None:
    with torch.no_grad():
        expected = encoder(features, [40, 25])[0]
        out = encoder.bfloat16()(features, [40, 25])[0]
    assert out.dtype == torch.bfloat16
    assert (out.float() - expected).norm() / expected.norm() < 0.03


def test_positions_are_those_of_funasr_in_fp32() -> None:
    from funasr.models.sense_voice.model import SinusoidalPositionEncoder

    zeros = torch.zeros(1, 900, 560)
    expected = SinusoidalPositionEncoder()(zeros)[0]
    assert torch.equal(sinusoidal_positions(900, zeros), expected)
    assert torch.equal(sinusoidal_positions(900, zeros.bfloat16()), expected)


def test_a_padded_batch_equals_each_utterance_alone(encoder: FunasrEncoder, features: torch.Tensor) -> None:
    with torch.no_grad():
        together = encoder(features, [40, 25])
        alone = encoder(features[1:, :25], [25])
    assert (together[1, :25] - alone[0]).abs().max() < 1e-5


def test_gradients_with_and_without_checkpointing_agree(encoder: FunasrEncoder, features: torch.Tensor) -> None:
    encoder(features, [40, 25])[0].sum().backward()
    expected = [p.grad.clone() for p in encoder.parameters()]
    encoder.zero_grad()
    encoder.activation_checkpointing = True
    encoder(features, [40, 25])[0].sum().backward()
    for p, e in zip(encoder.parameters(), expected, strict=True):
        assert torch.allclose(p.grad, e, atol=1e-6)


def test_keys_that_do_not_fit_are_listed(encoder: FunasrEncoder, folder: Path, tmp_path: Path) -> None:
    deeper = FunasrEncoder("SenseVoiceEncoderSmall", sensevoice_conf(64, 4, 2))
    with pytest.raises(ModelError, match=r"missing encoders\.2\.feed_forward"):
        deeper.load_checkpoint(read_checkpoint(folder))
    shallower = FunasrEncoder("SenseVoiceEncoderSmall", sensevoice_conf(64, 3, 1))
    with pytest.raises(ModelError, match=r"unexpected tp_encoders\.1\."):
        shallower.load_checkpoint(read_checkpoint(folder))
    wider = FunasrEncoder("SenseVoiceEncoderSmall", sensevoice_conf(128, 3, 2))
    with pytest.raises(ModelError, match=r"is \(64,\), expected \(128,\)"):
        wider.load_checkpoint(read_checkpoint(folder))


def test_an_encoder_of_the_papers_size_is_a_setting() -> None:
    """SenseVoice-large has 636 M parameters; the class takes any sizes."""
    with torch.device("meta"):
        large = FunasrEncoder("SenseVoiceEncoderSmall", sensevoice_conf(1024, 40, 10, heads=8, ffn=4096))
        small = FunasrEncoder("SenseVoiceEncoderSmall", sensevoice_conf(512, 50, 20))
    assert sum(p.numel() for p in large.parameters()) == pytest.approx(636e6, rel=0.02)
    assert sum(p.numel() for p in small.parameters()) == pytest.approx(221e6, rel=0.01)


def test_an_unknown_class_is_named_with_the_known_ones() -> None:
    with pytest.raises(ModelError, match=r"no encoder 'SenseVoiceLarge'.*SenseVoiceEncoderSmall"):
        FunasrEncoder("SenseVoiceLarge", {})


@pytest.mark.parametrize("missing", ["model.pt", "config.yaml", "am.mvn"])
def test_a_missing_file_is_named(tmp_path: Path, missing: str) -> None:
    folder = make_encoder(tmp_path, 32, 1, 0)
    (folder / missing).unlink()
    with pytest.raises(ModelError, match=missing):
        read_checkpoint(folder).encoder_state()
