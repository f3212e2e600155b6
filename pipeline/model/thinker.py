"""Speaker-Reasoner's own bases: the thinker of Qwen2.5-Omni or Qwen3-Omni, with LoRA in its decoder.

It has the calls of SpeakerLM that trainer, preflight and inference know: a packed micro-batch in, the sum of token
losses out. The thinker hears already, so audio encoder, decoder and output layer stay frozen, and a run's own weights
are the LoRA. It reads no speaker vector. Its vision encoder is dropped.

TMRoPE gives text and audio the same number in all three rows of position ids, one more for each position; only images
and videos count otherwise. So a dialogue's positions are those of any causal LM, and dialogues are packed.

Under ZeRO-3 the audio encoder is fetched whole, and a decoder layer with all its experts: each rank issues the same
collectives, whatever audios it has and whichever experts its tokens choose.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from pipeline.frames import audio_positions
from pipeline.model.causal_lm import check_packable, load_from_files
from pipeline.model.lora import add_lora
from pipeline.model.own_weights import base_hashes
from pipeline.model.packed_forward import (
    SpeakerLMOutput,
    packed_hidden_states,
    packed_loss,
    set_checkpointing,
    set_llm_mode,
)
from pipeline.model.thinker_audio import ThinkerFrontend, encoder_inputs
from pipeline.model.thinker_tokens import ThinkerTokenizer
from pipeline.recipe.schema import ModelConfig
from pipeline.stages import Base, Checkpointing, module_of
from shards.errors import ModelError
from shards.weights.hubs import resolve_checkpoint

TYPES = {  # model_type of config.json: of the whole model, and of a thinker alone
    Base.QWEN2_5_OMNI: ("qwen2_5_omni", "qwen2_5_omni_thinker"),
    Base.QWEN3_OMNI: ("qwen3_omni_moe", "qwen3_omni_moe_thinker"),
}
_CHUNK = 50  # n_window of Qwen3-Omni that pipeline/frames.py counts with


@dataclass
class ThinkerSettings:
    """The part of a model's configuration that preflight, meter and engines read."""

    speaker_dim: int = 1  # of vectors that batches carry and this model does not read
    frame_multiple: int = 1
    activation_checkpointing: dict[str, Any] = field(default_factory=dict)


class Thinker(nn.Module):
    """A thinker whose base is frozen, and its LoRA."""

    def __init__(
        self, llm: Any, base: Base, lora: dict[str, Any], *, checkpointing: Checkpointing, speaker_dim: int = 1
    ) -> None:
        """Put LoRA into a thinker's decoder in place; it starts as the thinker itself.

        Args:
            llm: transformers' thinker for conditional generation.
            base: which of the two it is.
            lora: r, alpha, dropout, targets.
            checkpointing: which activations backward computes again; the frozen encoder keeps none.
            speaker_dim: of the vectors in batches.

        Raises:
            ModelError: a configuration that is not supported.
        """
        super().__init__()
        if not hasattr(llm.model, "audio_tower"):
            raise ModelError(f"this transformers builds {type(llm).__name__} of other parts: install 5.23")
        self.llm, self.base, self._lora = llm, base, lora
        audio = llm.config.audio_config
        if base is Base.QWEN3_OMNI and audio.n_window != _CHUNK:
            raise ModelError(f"audio_config.n_window is {audio.n_window}; positions are counted for {_CHUNK}")
        llm.model.visual = None
        check_packable(llm.get_decoder())
        self.frontend = ThinkerFrontend(audio.num_mel_bins, base)
        self.config = ThinkerSettings(speaker_dim)
        self.bases: dict[str, str] = {}  # hashes of what its own weights were trained on
        llm.requires_grad_(False)
        add_lora(llm.get_decoder(), lora | {"targets": _dense_layers(llm.get_decoder(), lora["targets"])})
        self.set_checkpointing(checkpointing)

    def blank(self) -> Thinker:
        """Return a model of the same parts, none of whose weights are this one's."""
        llm = type(self.llm)(self.llm.config)
        checkpointing = Checkpointing.of(self.config.activation_checkpointing)
        return Thinker(llm, self.base, self._lora, checkpointing=checkpointing, speaker_dim=self.config.speaker_dim)

    def positions(self, num_samples: int) -> int:
        """LLM positions of an audio."""
        return audio_positions(num_samples, self.base)

    @property
    def device(self) -> torch.device:
        """Of the weights."""
        return next(self.llm.parameters()).device

    def set_checkpointing(self, setting: Checkpointing | Mapping[str, Any] | bool) -> None:
        """Choose which activations of the decoder backward computes again."""
        chosen = Checkpointing.of(setting)
        self.config.activation_checkpointing = chosen.plain()
        set_checkpointing(self.llm.get_decoder(), chosen.llm_every)
        self.train(self.training)

    def trainable(self, modules: Iterable[str]) -> list[str]:
        """Freeze everything but these modules; returns the names of trainable parameters."""
        chosen = frozenset(modules)
        for name, parameter in self.named_parameters():
            parameter.requires_grad_(module_of(name) in chosen)
        return [name for name, parameter in self.named_parameters() if parameter.requires_grad]

    def train(self, mode: bool = True) -> Thinker:
        """Only LoRA's dropout follows ``mode``, and the flag of layers that recompute their activations."""
        super().train(mode)
        set_llm_mode(self.llm, mode, lora_trained=True)
        return self

    def zero3_units(self) -> Iterator[nn.Module]:
        """Modules whose parameters ZeRO-3 gathers together."""
        yield self.llm.model.audio_tower
        yield from self.llm.get_decoder().layers

    def forward(
        self,
        waveforms: Tensor | tuple[Tensor, ...],
        waveform_lengths: Tensor,
        input_ids: Tensor,
        position_ids: Tensor,
        cu_seqlens: Tensor,
        audio_index: Tensor,
        target_index: Tensor,
        target_ids: Tensor,
        weight: float | Tensor = 1.0,
        each_token: bool = False,
        target_weights: Tensor | None = None,
        unused_audio: int = 0,
        **unread: Tensor,
    ) -> SpeakerLMOutput:
        """Sum of token losses of packed dialogues; arguments as of :class:`SpeakerLMForConditionalGeneration`.

        ``unread``: those of them that this model has no use for, speaker vectors and masks.
        """
        embeds = self.embed(waveforms, waveform_lengths, input_ids, audio_index, unused_audio=unused_audio)
        hidden = packed_hidden_states(self.llm, position_ids, cu_seqlens, inputs_embeds=embeds)
        return packed_loss(self.llm, hidden, target_index, target_ids, weight, each_token, target_weights)

    def embed(
        self,
        waveforms: Tensor | tuple[Tensor, ...],
        waveform_lengths: Tensor,
        input_ids: Tensor,
        audio_index: Tensor,
        *unread: Tensor,
        unused_audio: int = 0,
        waveform_starts: Tensor | None = None,
    ) -> Tensor:
        """(N,) token ids → (N, H) inputs of the decoder, with audio in its places. Shapes as in :meth:`forward`.

        Raises:
            ModelError: indices and audio disagree in number.
        """
        embeds: Tensor = self.llm.get_input_embeddings()(input_ids)
        audio = self.encode_audio(waveforms, waveform_lengths)
        if len(audio) - unused_audio != len(audio_index):
            made = len(audio) - unused_audio
            raise ModelError(f"{len(audio_index)} audio positions were planned, the audio makes {made}")
        return embeds.index_copy(0, audio_index, audio[: len(audio_index)].to(embeds.dtype))

    def encode_audio(self, waveforms: Tensor | tuple[Tensor, ...], waveform_lengths: Tensor) -> Tensor:
        """(A, S) waveforms, or several of them → (P, H) decoder inputs of all audios, in one call of the encoder."""
        rows = (waveforms,) if isinstance(waveforms, Tensor) else waveforms
        lengths = waveform_lengths.split([len(row) for row in rows])
        encoder = self.llm.model.audio_tower
        with torch.no_grad():
            features = [f for row, n in zip(rows, lengths, strict=True) for f in self.frontend(row, n.tolist())]
            out: Tensor = encoder(**encoder_inputs(features, encoder.config, self.base)).last_hidden_state
        return out


def _dense_layers(decoder: nn.Module, targets: Iterable[str]) -> list[str]:
    """Full names of the decoder's linear layers with these last names, without experts.

    By last names alone peft would also adapt the weights of all experts.
    """
    wanted = set(targets)
    linear = (name for name, module in decoder.named_modules() if isinstance(module, nn.Linear))
    return [name for name in linear if name.rpartition(".")[2] in wanted] or sorted(wanted)


def build_thinker(
    cfg: ModelConfig,
    *,
    ds_config: Mapping[str, Any] | None = None,
    dtype: torch.dtype = torch.float32,
    seed: int = 1,
) -> Thinker:
    """The recipe's thinker with a LoRA that is a function of ``seed``; arguments and errors as of ``build_model``."""
    base, folder = Base(cfg.base), resolve_checkpoint(cfg.llm.checkpoint, cfg.llm.hub)
    llm = load_from_files(thinker_class(base, folder), folder, ds_config, dtype, f"the thinker of {base}")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = around(llm, cfg)
    model.bases = base_hashes(folder, ThinkerTokenizer.of_base(folder, base).hash)
    return model


def around(llm: Any, cfg: ModelConfig) -> Thinker:
    """The recipe's model around a thinker that is loaded, or empty."""
    checkpointing = cfg.activation_checkpointing
    base = Base(cfg.base)
    return Thinker(llm, base, asdict(cfg.lora), checkpointing=checkpointing, speaker_dim=cfg.speaker_dim)


def thinker_class(base: Base, folder: Path | None = None) -> Any:
    """transformers' class of a base.

    Args:
        folder: its checkpoint, whose ``config.json`` is compared.

    Raises:
        ModelError: the folder holds another model, or this transformers has no such class.
    """
    import transformers

    from pipeline.model.exported import model_type

    if folder is not None and (found := model_type(folder)) not in TYPES[base]:
        raise ModelError(f"{folder} holds a model of type {found!r}, and model.base is {base}: set both to the same")
    name = {Base.QWEN2_5_OMNI: "Qwen2_5Omni", Base.QWEN3_OMNI: "Qwen3OmniMoe"}[base]
    try:
        return getattr(transformers, f"{name}ThinkerForConditionalGeneration")
    except AttributeError as e:
        raise ModelError(f"transformers {transformers.__version__} has no {base}: install 5.23") from e
