"""A micro-batch's forward and backward read nothing back from the device and copy nothing to it that is waited for.

On the meta device every read of a value (``item``, ``tolist``, ``nonzero``, a comparison) raises; copies are watched.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from benchmarks.gpu_parts import shape
from pipeline.flops import Load
from pipeline.model.configuration_speakerlm import SpeakerLMConfig
from pipeline.model.encoders.whisper import whisper_conf
from pipeline.model.modeling_speakerlm import SpeakerLMForConditionalGeneration
from pipeline.model.whisper_encoder import WHISPER
from pipeline.preflight.memory import inputs_of
from pipeline.stages import STAGES

LOAD = Load(samples=(60, 40, 33), frames=(70, 31, 22), audio_positions=35 + 16 + 11, speakers=3, targets=12)


class Copies(TorchDispatchMode):
    """Counts copies from the host to the meta device, and those of them that the host waits for."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        super().__init__()
        self.all, self.waited = 0, []  # type: tuple[int, list[str]]
        plain = torch.tensor

        def made(*args: Any, device: Any = None, **kwargs: Any) -> torch.Tensor:
            """``torch.tensor(..., device=)`` copies below the dispatcher, and the host waits for it."""
            if device is not None and torch.device(device).type == "meta":
                self.waited.append("torch.tensor")
            return plain(*args, device=device, **kwargs)

        monkeypatch.setattr(torch, "tensor", made)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if func.overloadpacket in (torch.ops.aten._to_copy, torch.ops.aten.copy_):
            source = args[1] if func.overloadpacket is torch.ops.aten.copy_ else args[0]
            if out.is_meta and not source.is_meta:
                self.all += 1
                if not ((kwargs or {}).get("non_blocking") or (len(args) > 2 and args[2])):
                    self.waited.append(str(func))
        return out


def model(stage: int, encoder: str = "sensevoice") -> Any:
    parts = dict(shape(small=True))
    if encoder == "whisper":
        conf = {**whisper_conf(64, 2, 4), "max_source_positions": 3 * 40}  # one of the audios is cut into windows
        parts |= {"encoder_class": WHISPER, "encoder_conf": conf}
    with torch.device("meta"):
        built = SpeakerLMForConditionalGeneration(SpeakerLMConfig(**parts))
    built.trainable(STAGES[stage].trains)
    return built.train()


@pytest.mark.parametrize("encoder", ["sensevoice", "whisper"])
@pytest.mark.parametrize("stage", STAGES)
def test_a_micro_batch_waits_for_no_device(stage: int, encoder: str, monkeypatch: pytest.MonkeyPatch) -> None:
    built = model(stage, encoder)
    inputs = inputs_of(LOAD, built)
    built(**inputs).loss.backward()  # the frontend's constants go to the device once
    with Copies(monkeypatch) as copies:
        built(**inputs, frame_masks=torch.zeros(3, 1, 2, dtype=torch.long, device="meta")).loss.backward()
    # Lengths for SenseVoice's frontend, encoder and projector, bounds of samples: the watch sees them.
    assert copies.all >= (4 if encoder == "sensevoice" else 3)
    assert copies.waited == []
    assert any(p.grad is not None for p in built.parameters())


@pytest.mark.parametrize(
    "read",
    [
        torch.Tensor.item,
        torch.Tensor.tolist,
        torch.Tensor.cpu,
        torch.nonzero,
        torch.Tensor.__bool__,
        lambda t: t[t > 0],
        lambda t: torch.tensor([1, 2], device=t.device),
        lambda t: torch.ones(2).to(t.device),
        lambda t: t.copy_(torch.ones(1)),
    ],
)
def test_the_watch_notices_what_would_wait(read: Callable[[Any], Any], monkeypatch: pytest.MonkeyPatch) -> None:
    copies = Copies(monkeypatch)
    try:
        with copies:
            read(torch.ones(1, device="meta"))
    except (RuntimeError, NotImplementedError):
        return
    assert len(copies.waited) == 1
