"""FunASR's speech encoders inside our model: features in, hidden states out, in fp32 or bf16.

FunASR's own ``forward`` scales its input in place, builds a fp32 mask that bf16 weights refuse, and computes its
sinusoidal positions in the input's dtype, which in bf16 is off by up to 2.0. So the blocks are FunASR's and the way
through them is ours.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MethodType
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from pipeline.model.configuration_speakerlm import SpeakerLMConfig
from pipeline.model.host_to_device import within
from pipeline.model.sensevoice_frontend import Frontend
from shards.errors import ModelError
from shards.voices.funasr_modules import funasr_module

if TYPE_CHECKING:
    from pipeline.model.encoder_interface import EncoderCheckpoint


def build_frontend(config: SpeakerLMConfig) -> Frontend:
    """Build FunASR's frontend from a model's configuration.

    Raises:
        ModelError: settings that the frontend does not support.
    """
    return Frontend(config.feature_shift, config.feature_scale, config.frontend_conf)


def build_encoder(config: SpeakerLMConfig) -> FunasrEncoder:
    """Build the encoder of a model's configuration, with random weights.

    Raises:
        ModelError: no such class, or arguments that it refuses.
    """
    return FunasrEncoder(config.encoder_class, config.encoder_conf, len(config.feature_shift))


def encoder_class(name: str) -> type[nn.Module]:
    """A FunASR encoder class by the name under which FunASR registers it.

    Raises:
        ModelError: FunASR knows no such encoder.
    """
    funasr_module("funasr.models.sense_voice.model")  # funasr registers its classes when imported
    tables = funasr_module("funasr.register").tables
    try:
        return tables.encoder_classes[name]
    except KeyError:
        known = sorted(n for n, c in tables.encoder_classes.items() if _is_sanm(c))
        raise ModelError(f"FunASR has no encoder {name!r}; it has {', '.join(known)}") from None


def _is_sanm(cls: type) -> bool:
    return "SANM" in cls.__name__ or "SenseVoice" in cls.__name__


class FunasrEncoder(nn.Module):
    """A FunASR encoder of the SANM family: SenseVoice's, or any with ``encoders0``, ``encoders`` and ``after_norm``."""

    backbone: Any  # FunASR's module

    def __init__(self, class_name: str, conf: Mapping[str, Any], input_size: int = 560) -> None:
        """Build FunASR's class with random weights.

        Raises:
            ModelError: no such class, arguments that it refuses, or an encoder of another family.
        """
        super().__init__()
        cls = encoder_class(class_name)
        try:
            self.backbone = cls(input_size=input_size, **conf)
        except (TypeError, ValueError, AssertionError) as e:
            raise ModelError(f"encoder {class_name} refuses its configuration {dict(conf)}: {e}") from e
        if not (hasattr(self.backbone, "encoders0") and hasattr(self.backbone, "after_norm")):
            raise ModelError(f"encoder {class_name} is not of the SANM family (no encoders0, after_norm)")
        _own_activations(self.backbone)
        _attend_by_sdpa(self.backbone)
        self.output_size = self.width = int(self.backbone.output_size())
        self.blocks = len(self.repeated())
        self.states = 1  # positions of its layers in a frame
        self.longest = None  # no windows: frames of an utterance see one another, however many
        self.activation_checkpointing = False

    def forward(self, features: Tensor, lengths: Sequence[int]) -> Tensor:
        """(A, F, input) fp32 features, A lengths → (A, F, output_size) in the weights' dtype; the input is left alone.

        Rows past an utterance's length hold nothing of use.
        """
        dtype = next(self.backbone.after_norm.parameters()).dtype
        x = features.float() * self.output_size**0.5 + sinusoidal_positions(features.shape[1], features)
        x = x.to(dtype)
        mask = within(lengths, x.shape[1], x.device).unsqueeze(1).to(dtype)
        for block in (*self.backbone.encoders0, *self.backbone.encoders):
            x = self._run(block, x, mask)
        x = self.backbone.after_norm(x)
        if hasattr(self.backbone, "tp_encoders"):
            for block in self.backbone.tp_encoders:
                x = self._run(block, x, mask)
            x = self.backbone.tp_norm(x)
        return x

    def repeated(self) -> list[nn.Module]:
        """List the blocks, all of the same code."""
        return [b for n in ("encoders0", "encoders", "tp_encoders") for b in getattr(self.backbone, n, ())]

    def _run(self, block: nn.Module, x: Tensor, mask: Tensor) -> Tensor:
        if self.activation_checkpointing and torch.is_grad_enabled():
            return checkpoint(_first_output, block, x, mask, use_reentrant=False)
        return _first_output(block, x, mask)

    def load_checkpoint(self, checkpoint: EncoderCheckpoint) -> None:
        """Copy the weights of a checkpoint; every key must fit.

        Raises:
            ModelError: keys are missing or unexpected, or shapes differ. Lists them.
        """
        found = checkpoint.encoder_state()
        check_state(found, self.backbone.state_dict(), str(checkpoint.folder / "model.pt"), checkpoint.class_name)
        self.backbone.load_state_dict(found)


def _own_activations(backbone: nn.Module) -> None:
    """Give every feed-forward layer an activation of its own.

    FunASR's default is one object in all of them, and DeepSpeed hooks a module once for each path that leads to it.
    """
    for module in backbone.modules():
        if isinstance(getattr(module, "activation", None), nn.ReLU):
            module.activation = nn.ReLU()


def _attend_by_sdpa(backbone: nn.Module) -> None:
    """Let every block attend by torch's kernels, which never hold scores of frames × frames."""
    for module in backbone.modules():
        if type(module).__name__ == "MultiHeadedAttentionSANM":
            vars(module)["forward"] = MethodType(_sdpa_forward, module)


def _sdpa_forward(self: Any, x: Tensor, mask: Tensor, **_: None) -> Tensor:
    """As FunASR's ``forward`` without chunks; (A, F, width) and a (A, 1, F) mask, 0 at padding."""
    q, k, v, flat = self.forward_qkv(x)
    memory = self.forward_fsmn(flat, mask)
    rate = self.dropout.p if self.training else 0.0
    seen = functional.scaled_dot_product_attention(q, k, v, attn_mask=mask.unsqueeze(1).bool(), dropout_p=rate)
    return self.linear_out(seen.transpose(1, 2).flatten(2)) + memory


def _first_output(block: nn.Module, x: Tensor, mask: Tensor) -> Tensor:
    return block(x, mask)[0]


def check_state(found: Mapping[str, Tensor], wanted: Mapping[str, Tensor], where: str, class_name: str) -> None:
    """Raise ModelError unless a checkpoint holds exactly these names and shapes; lists what does not fit."""
    problems = [f"missing {k}" for k in sorted(wanted.keys() - found.keys())]
    problems += [f"unexpected {k}" for k in sorted(found.keys() - wanted.keys())]
    problems += [
        f"{k} is {tuple(found[k].shape)}, expected {tuple(wanted[k].shape)}"
        for k in sorted(wanted.keys() & found.keys())
        if found[k].shape != wanted[k].shape
    ]
    if problems:
        shown = "; ".join(problems[:20]) + (f"; and {len(problems) - 20} more" if len(problems) > 20 else "")
        raise ModelError(f"{where} does not fit {class_name}: {shown}")


def sinusoidal_positions(frames: int, like: Tensor, first: int = 1) -> Tensor:
    """(frames, depth) fp32 positions from ``first`` on: sines, then cosines, timescales 1 … 10,000.

    FunASR counts from 1, Whisper from 0.
    """
    depth = like.shape[-1]
    positions = torch.arange(first, first + frames, device=like.device, dtype=torch.float32).unsqueeze(1)
    increment = torch.log(torch.full((), 10000.0, device=like.device)) / (depth / 2 - 1)
    scales = torch.exp(torch.arange(depth / 2, device=like.device) * -increment)
    angles = positions * scales
    return torch.cat([angles.sin(), angles.cos()], 1)
