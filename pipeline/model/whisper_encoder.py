"""Whisper's encoder inside our model: frames of 60 ms in, frames of 60 ms out, in fp32 or bf16, any length.

transformers' ``WhisperEncoder.forward`` takes exactly 30 s and no mask. So its convolutions and layers are used, and
the way through them is ours:

- An utterance longer than 30 s, which is as many positions as Whisper knows, is cut into the fewest windows that are
  not longer, all of the same length but the last, which may be shorter. Each begins at position 0. 50 s are 2 × 25 s.
- Windows of all utterances of a micro-batch run as one batch: **one** call of each layer whatever there is, as ZeRO-3
  needs. They are padded to the longest of them, not to 30 s, and padding is masked: a window gives alone what it gives
  in any batch. (Whisper itself was trained with silence up to 30 s.)
- Whisper's three hidden states of 20 ms stand one behind the other in a frame of 60 ms; nothing is averaged.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.rnn import pad_sequence
from torch.utils.checkpoint import checkpoint
from transformers import WhisperConfig
from transformers.models.whisper.modeling_whisper import WhisperEncoder

from pipeline.frames import windows
from pipeline.model.configuration_speakerlm import SpeakerLMConfig
from pipeline.model.host_to_device import within
from pipeline.model.sensevoice_encoder import check_state, sinusoidal_positions
from pipeline.model.whisper_frontend import STACKED, WhisperFrontend
from shards.errors import ModelError

if TYPE_CHECKING:
    from pipeline.model.encoder_interface import EncoderCheckpoint

WHISPER = "WhisperEncoder"  # SpeakerLMConfig.encoder_class
STATES = STACKED // 2  # hidden states of a frame: the second convolution halves the rate
FIELDS = (
    "num_mel_bins", "d_model", "encoder_layers", "encoder_attention_heads", "encoder_ffn_dim", "max_source_positions",
    "activation_function", "dropout", "attention_dropout", "activation_dropout",
)  # fmt: skip
DROPOUTS = ("dropout", "attention_dropout", "activation_dropout")
# The table of a checkpoint is rounded to its dtype (fp16: 2.4e-4, bf16: 2e-3); trained positions are off by far more.
POSITION_TOLERANCE = 4e-3


def build_frontend(config: SpeakerLMConfig) -> WhisperFrontend:
    """Build Whisper's frontend from a model's configuration."""
    return WhisperFrontend(config.encoder_conf.get("num_mel_bins", 80))


def build_encoder(config: SpeakerLMConfig) -> WhisperSpeechEncoder:
    """Build the encoder of a model's configuration, with random weights.

    Raises:
        ModelError: fields that it does not know, or sizes that do not fit together.
    """
    return WhisperSpeechEncoder(config.encoder_conf)


class WhisperSpeechEncoder(nn.Module):
    """Whisper's convolutions and layers, with masks and windows; positions are computed, not weights."""

    def __init__(self, conf: Mapping[str, Any]) -> None:
        """Build the parts with random weights.

        Args:
            conf: fields of transformers' ``WhisperConfig``, those of FIELDS.

        Raises:
            ModelError: other fields, or sizes that do not fit together.
        """
        super().__init__()
        if unknown := sorted(conf.keys() - set(FIELDS)):
            raise ModelError(f"{WHISPER} does not know {', '.join(unknown)}; it knows {', '.join(FIELDS)}")
        try:
            config = WhisperConfig(**{**conf, "attn_implementation": "sdpa"})
            parts = WhisperEncoder(config)
        except (TypeError, ValueError) as e:
            raise ModelError(f"{WHISPER} refuses its configuration {dict(conf)}: {e}") from e
        self.conv1, self.conv2 = parts.conv1, parts.conv2
        self.layers, self.layer_norm = parts.layers, parts.layer_norm
        self.dropout = config.dropout
        self.width, self.blocks, self.states = config.d_model, config.encoder_layers, STATES
        self.output_size = STATES * config.d_model
        self.longest = config.max_source_positions // STATES  # frames of a window
        self.activation_checkpointing = False

    def forward(self, features: Tensor, lengths: Sequence[int]) -> Tensor:
        """(A, F, 6 × n_mels) fp32 features, A lengths → (A, F, output_size) in the weights' dtype.

        The input is left alone; frames past an utterance's length are 0.
        """
        cut = [windows(n, self.longest) for n in lengths]
        sizes = [end - begin for spans in cut for begin, end in spans]
        pieces = [features[i, begin:end] for i, spans in enumerate(cut) for begin, end in spans]
        x = pad_sequence(pieces, batch_first=True)  # (W, longest of them, 6 × n_mels), zero behind each
        x = x.unflatten(-1, (STACKED, -1)).flatten(1, 2).transpose(1, 2).to(self.layer_norm.weight.dtype)
        valid = within(sizes, max(sizes), x.device)
        x = functional.gelu(self.conv1(x)) * valid.repeat_interleave(STACKED, 1).unsqueeze(1)
        x = functional.gelu(self.conv2(x)).transpose(1, 2)
        x = (x + sinusoidal_positions(x.shape[1], x, first=0)).to(x.dtype)
        x = functional.dropout(x, self.dropout, self.training)
        mask = valid.repeat_interleave(STATES, 1)[:, None, None, :] if min(sizes) < max(sizes) else None
        for layer in self.layers:
            if self.activation_checkpointing and torch.is_grad_enabled():
                x = checkpoint(layer, x, mask, use_reentrant=False)
            else:
                x = layer(x, mask)
        x = self.layer_norm(x).unflatten(1, (-1, STATES)).flatten(2)
        done = iter([piece[:n] for piece, n in zip(x, sizes, strict=True)])
        return pad_sequence([torch.cat([next(done) for _ in spans]) for spans in cut], batch_first=True)

    def repeated(self) -> list[nn.Module]:
        """List the layers."""
        return list(self.layers)

    def load_checkpoint(self, source: EncoderCheckpoint) -> None:
        """Copy the weights of a checkpoint; every key must fit.

        Raises:
            ModelError: keys are missing or unexpected, shapes differ, or positions are not the sinusoids of Whisper.
        """
        found = source.encoder_state()
        table = found.pop("embed_positions.weight", None)
        if table is not None:
            formula = sinusoidal_positions(len(table), table.float(), first=0)
            worst = float((table.float() - formula).abs().max())
            if worst > POSITION_TOLERANCE:
                raise ModelError(
                    f"{source.folder}: embed_positions differ from Whisper's sinusoids by {worst:.3g}; trained "
                    "positions are not supported"
                )
        check_state(found, self.state_dict(), str(source.folder), source.class_name)
        self.load_state_dict(found)
