"""Numbers of rows that cuFFT sees. The CPU plays a device that keeps plans."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from pipeline.model import fourier
from pipeline.model.encoders.sensevoice import FRONTEND_CONF
from pipeline.model.sensevoice_frontend import Frontend
from pipeline.model.whisper_frontend import WhisperFrontend

FRONTENDS = {
    "sensevoice": Frontend([0.0] * 560, [1.0] * 560, FRONTEND_CONF),
    "whisper": WhisperFrontend(),
}


@pytest.mark.parametrize("name", FRONTENDS)
def test_batches_of_many_lengths_make_few_plans(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    waves = 0.1 * torch.randn(2, 16_000, generator=torch.Generator().manual_seed(0))
    lengths = [[16_000 - 700 * i, 9_000] for i in range(4)]
    expected = [FRONTENDS[name](waves, n)[0] for n in lengths]
    monkeypatch.setattr(fourier, "CACHING", ("cpu",))
    monkeypatch.setattr(fourier, "ROWS", 64)
    shapes, plain = set(), torch.fft.rfft

    def seen(x: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        shapes.add(tuple(x.shape))
        return plain(x, *args, **kwargs)

    monkeypatch.setattr(torch.fft, "rfft", seen)
    found = [FRONTENDS[name](waves, n)[0] for n in lengths]
    rows = {shape[0] for shape in shapes}
    assert len(rows) < len(lengths)
    assert all(n % 64 == 0 for n in rows)
    assert len(rows) <= fourier.plans(max(rows))
    for a, b in zip(expected, found, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)
