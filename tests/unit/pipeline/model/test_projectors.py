"""Lengths, padding and the embedding of time of the audio projector."""

from __future__ import annotations

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from pipeline.frames import audio_positions, encoder_frames
from pipeline.model.projectors import AudioProjector, StrideConv, TimeEmbedding
from shards.errors import ModelError


def projector(stride: int, time_embedding: bool = False) -> AudioProjector:
    torch.manual_seed(0)
    sizes = {"layers": 2, "heads": 4, "ffn": 64, "dropout": 0.1, "stride": stride}
    return AudioProjector(32, 48, **sizes, time_embedding=time_embedding).eval()


@pytest.mark.parametrize("stride", [1, 2, 3, 4])
@pytest.mark.parametrize("samples", [400, 1360, 16000, 16960, 48000])
def test_lengths_are_those_of_the_plan(stride: int, samples: int) -> None:
    frames = encoder_frames(samples)
    out = projector(stride)(torch.randn(1, frames, 32), [frames])
    assert out.shape == (audio_positions(samples, stride), 48)
    assert len(out) >= 1


def test_a_padded_batch_equals_each_audio_alone() -> None:
    lengths = [9, 4, 1, 7]
    frames = torch.randn(4, 9, 32)
    model = projector(2)
    together = model(frames, lengths)
    alone = [model(frames[i : i + 1, :n], [n]) for i, n in enumerate(lengths)]
    assert [len(a) for a in alone] == [5, 2, 1, 4]
    assert (together - torch.cat(alone)).abs().max() < 1e-6


def test_an_embedding_of_time_starts_without_effect() -> None:
    lengths, frames = [9, 4], torch.randn(2, 9, 32)
    assert torch.equal(projector(2, time_embedding=True)(frames, lengths, [0.0, 3.0]), projector(2)(frames, lengths))


def test_what_the_embedding_adds_depends_on_the_time_in_the_recording_alone() -> None:
    lengths, frames = [9, 4, 4, 1], torch.randn(4, 9, 32)
    model = projector(2, time_embedding=True)
    plain = model(frames, lengths, [0.0, 0.12, 0.24, -1.0])
    with torch.no_grad():
        model.time.weight.normal_()
    first, second, third, unknown = (model(frames, lengths, [0.0, 0.12, 0.24, -1.0]) - plain).split([5, 2, 2, 1])
    assert first.abs().min() > 0
    assert torch.allclose(first[1:3], second, atol=1e-4)  # positions of 0.12 s: 0.12 s later is one position on
    assert torch.allclose(first[2:4], third, atol=1e-4)
    assert not torch.allclose(first[:2], second, atol=1e-2)
    assert unknown.abs().max() == 0


def test_each_digit_of_a_time_has_a_vector() -> None:
    model = TimeEmbedding(8)
    torch.nn.init.normal_(model.weight)
    vectors = model.weight.view(4, 10, 8)  # hundreds, tens, ones, tenths of seconds
    seconds = torch.tensor([0.0, 0.3, 12.34, 999.96, 1000.1, -1.0])
    digits = [(0, 0, 0, 0), (0, 0, 0, 3), (0, 1, 2, 3), (9, 9, 9, 9), (0, 0, 0, 1)]
    expected = [sum(vectors[place, digit] for place, digit in enumerate(d)) for d in digits]
    assert torch.allclose(model(seconds), torch.stack([*expected, torch.zeros(8)]), atol=1e-6)


def test_heads_must_divide_the_width() -> None:
    with pytest.raises(ModelError, match=r"projector\.heads is 5"):
        AudioProjector(32, 48, layers=1, heads=5, ffn=64, dropout=0.0, stride=2)


@pytest.mark.parametrize("stride", [1, 2, 3])
def test_the_convolution_is_torchs_as_a_matrix_product(stride: int) -> None:
    torch.manual_seed(0)
    ours, theirs = StrideConv(32, 48, stride, stride), torch.nn.Conv1d(32, 48, stride, stride)
    theirs.load_state_dict(ours.state_dict())
    x = torch.randn(3, 4 * stride, 32)
    out, expected = ours(x), theirs(x.transpose(1, 2)).transpose(1, 2)
    assert torch.allclose(out, expected, atol=1e-5)
    for result in (out, expected):
        (result * torch.linspace(-1, 1, result.numel()).view_as(result)).sum().backward()
    for a, b in zip(ours.parameters(), theirs.parameters(), strict=True):
        assert torch.allclose(a.grad, b.grad, atol=1e-4)
    with CountConvolutions() as seen, torch.no_grad():
        ours(x)
    assert seen.number == 0


class CountConvolutions(TorchDispatchMode):
    """Counts convolutions."""

    number = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.number += func.overloadpacket is torch.ops.aten.convolution
        return func(*args, **(kwargs or {}))
