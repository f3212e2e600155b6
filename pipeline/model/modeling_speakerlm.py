"""SpeakerLM: audio encoder, two projectors and a causal LM, as one Hugging Face model.

``forward`` takes a packed micro-batch and returns the sum of its token losses. Whatever the micro-batch holds, every
module is called the same number of times, because under ZeRO-3 each call is a collective: one encoder call (of
dialogues as many as the recipe says, with a dummy where a micro-batch needs fewer), one call of each projector (without
registration: a dummy row whose output is discarded), one LLM call, the head gathered once.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn import functional
from transformers import AutoConfig, AutoModelForCausalLM, GenerationConfig, GenerationMixin, PreTrainedModel

from pipeline.frames import audio_positions
from pipeline.model.build_encoder import build_encoder, build_frontend
from pipeline.model.configuration_speakerlm import SpeakerLMConfig
from pipeline.model.lora import add_lora
from pipeline.model.packed_attention import register
from pipeline.model.packed_forward import (
    SpeakerLMOutput,
    packed_hidden_states,
    packed_loss,
    set_checkpointing,
    set_llm_mode,
)
from pipeline.model.projectors import AudioProjector, SpeakerProjector
from pipeline.model.specaugment import mask_features
from pipeline.prompts import answer_tokens
from pipeline.stages import MODULES, Checkpointing, module_of
from shards.errors import ModelError
from shards.sample import SAMPLE_RATE

if TYPE_CHECKING:
    from pipeline.prompts import Prompt, PromptTokenizer


class SpeakerLMForConditionalGeneration(PreTrainedModel, GenerationMixin):
    """The model; built from its configuration alone, or around an LLM and an encoder that are already loaded."""

    config_class = SpeakerLMConfig
    base_model_prefix = "speakerlm"
    main_input_name = "waveforms"
    supports_gradient_checkpointing = True
    _supports_sdpa = True
    _no_split_modules = ("EncoderLayerSANM", "WhisperEncoderLayer", "TransformerLayer")  # type: ignore[assignment]

    def __init__(self, config: SpeakerLMConfig, *, llm: PreTrainedModel | None = None, encoder: Any = None) -> None:
        """Build the parts that are not given; all but a given ``llm`` and ``encoder`` start at random."""
        super().__init__(config)
        self.frontend = build_frontend(config)
        self.encoder: Any = encoder or build_encoder(config)
        self.llm: Any = llm if llm is not None else _llm_from_config(config.llm)
        width: int = self.get_input_embeddings().embedding_dim
        self.audio_projector = AudioProjector(self.encoder.output_size, width, **config.projector)
        self.speaker_projector = SpeakerProjector(config.speaker_dim, width)
        self.llm.requires_grad_(False)
        if config.lora:
            add_lora(self.llm, config.lora)
        self.trained: frozenset[str] = frozenset(MODULES)
        self.bases: dict[str, str] = {}  # hashes of what this model's own weights were trained on
        self.set_checkpointing(config.activation_checkpointing)
        self.post_init()

    def initialize_weights(self) -> None:
        """Buffers that no file holds, such as rotary frequencies; no parameter, each part has initialised its own.

        transformers would re-initialise LoRA's B, which has to be zero. Without the buffers, a model from files would
        run on uninitialised memory.
        """
        for parameter in self.parameters():
            parameter._is_hf_initialized = True  # type: ignore[attr-defined]
        super().initialize_weights()

    @classmethod
    def from_pretrained(cls, *args: Any, **kwargs: Any) -> Any:
        """As transformers', but weights that are missing or do not fit are an error.

        Raises:
            ModelError: lists them.
        """
        wants_info = kwargs.pop("output_loading_info", False)
        loaded: Any = super().from_pretrained(*args, output_loading_info=True, **kwargs)
        model, info = loaded
        problems = [f"{what} {key}" for what in info for key in sorted(map(str, info[what] or ()))]
        if problems:
            more = f" and {len(problems) - 20} more" if len(problems) > 20 else ""
            raise ModelError(
                f"{args[0] if args else cls.__name__}: weights that are missing or do not fit: "
                f"{'; '.join(problems[:20])}{more}: export the run again"
            )
        model.trainable(MODULES)  # loading made new parameters: the LLM's base is frozen again
        return (model, info) if wants_info else model

    def set_checkpointing(self, setting: Checkpointing | Mapping[str, Any] | bool) -> None:
        """Choose which activations backward computes again; the configuration keeps the setting."""
        chosen = Checkpointing.of(setting)
        self.config.activation_checkpointing = chosen.plain()
        self.encoder.activation_checkpointing = self.audio_projector.activation_checkpointing = chosen.encoder
        if chosen.llm_every or self.llm.supports_gradient_checkpointing:
            set_checkpointing(self.llm, chosen.llm_every)
        self.train(self.training)

    def positions(self, num_samples: int) -> int:
        """LLM positions of an audio."""
        return audio_positions(num_samples, self.config.projector["stride"])

    # ------------------------------------------------------------------------------------------------------ training

    def trainable(self, modules: Iterable[str]) -> list[str]:
        """Freeze everything but these modules of stages.MODULES; returns the names of trainable parameters."""
        self.trained = frozenset(modules)
        names = []
        for name, parameter in self.named_parameters():
            parameter.requires_grad_(module_of(name) in self.trained)
            if parameter.requires_grad:
                names.append(name)
        self.train(self.training)
        return names

    def train(self, mode: bool = True) -> SpeakerLMForConditionalGeneration:
        """Train mode for what is trained; frozen modules stay in eval mode, so that their dropout is off.

        The LLM's base is always frozen: only LoRA's dropout follows ``mode``.
        """
        super().train(mode)
        for name in ("encoder", "audio_projector", "speaker_projector"):
            getattr(self, name).train(mode and name in self.trained)
        set_llm_mode(self.llm, mode, "lora" in self.trained)
        return self

    def forward(
        self,
        waveforms: Tensor | tuple[Tensor, ...],
        waveform_lengths: Tensor,
        input_ids: Tensor,
        position_ids: Tensor,
        cu_seqlens: Tensor,
        audio_index: Tensor,
        speaker_vectors: Tensor,
        speaker_index: Tensor,
        target_index: Tensor,
        target_ids: Tensor,
        weight: float | Tensor = 1.0,
        frame_masks: Tensor | None = None,
        mel_masks: Tensor | None = None,
        each_token: bool = False,
        target_weights: Tensor | None = None,
        unused_audio: int = 0,
        waveform_starts: Tensor | None = None,
    ) -> SpeakerLMOutput:
        """Sum of token losses of a packed micro-batch.

        Args:
            waveforms: (A, S) float32, zero-padded on the right; of several encoder calls one each.
            waveform_lengths: (A,) over all calls, in samples. On the host it costs no wait for the device; so does
                ``cu_seqlens``.
            input_ids: (L,) packed prompts and targets; anything valid at audio and speaker positions.
            position_ids: (L,) restarting at 0 for every sample.
            cu_seqlens: (B + 1,) bounds of the samples in L.
            audio_index: (P,) where the audio positions go, in order of audios and time.
            speaker_vectors: (R, dim), R >= 1; a dummy row without registration.
            speaker_index: (R,) where they go, or (0,) for the dummy row.
            target_index: (T,) positions whose hidden state predicts a target token.
            target_ids: (T,) those tokens.
            weight: factor on the loss; 0 for an empty micro-batch.
            frame_masks, mel_masks: (A, K, 2) spans that SpecAugment masks, see :func:`mask_features`.
            each_token: also give each token's loss; nothing has a gradient then.
            target_weights: (T,) factors on the tokens' losses.
            unused_audio: audio positions of dummies, the last ones, which go nowhere.
            waveform_starts: (A,) samples from the start of its recording at which each audio begins, on the host;
                negative: unknown; None: all at 0. The embedding of time reads it.

        Raises:
            ModelError: indices and tensors disagree in number.
        """
        masks = frame_masks, mel_masks
        audio = waveforms, waveform_lengths
        places = audio_index, speaker_vectors, speaker_index
        embeds = self.embed(*audio, input_ids, *places, masks, unused_audio, waveform_starts)
        hidden = packed_hidden_states(self.llm, position_ids, cu_seqlens, inputs_embeds=embeds)
        return packed_loss(self.llm, hidden, target_index, target_ids, weight, each_token, target_weights)

    def embed(
        self,
        waveforms: Tensor | tuple[Tensor, ...],
        waveform_lengths: Tensor,
        input_ids: Tensor,
        audio_index: Tensor,
        speaker_vectors: Tensor,
        speaker_index: Tensor,
        masks: tuple[Tensor | None, Tensor | None] = (None, None),
        unused_audio: int = 0,
        waveform_starts: Tensor | None = None,
    ) -> Tensor:
        """(N,) token ids → (N, H) LLM inputs, with audio and speakers in their places. Shapes as in :meth:`forward`."""
        embeds = self.llm.get_input_embeddings()(input_ids)
        audio = self.encode_audio(waveforms, waveform_lengths, masks, waveform_starts)
        speakers = self.speaker_projector(speaker_vectors.to(self.speaker_projector.weight.dtype))
        if len(audio) - unused_audio != len(audio_index):
            made = len(audio) - unused_audio
            raise ModelError(f"{len(audio_index)} audio positions were planned, the audio makes {made}")
        if len(speaker_index) not in (0, len(speakers)):
            raise ModelError(f"{len(speakers)} speaker vectors for {len(speaker_index)} positions")
        # Dummy rows are cut off here: their gradient is exactly zero, and it exists.
        embeds = embeds.index_copy(0, audio_index, audio[: len(audio_index)].to(embeds.dtype))
        return embeds.index_copy(0, speaker_index, speakers[: len(speaker_index)].to(embeds.dtype))

    def encode_audio(
        self,
        waveforms: Tensor | tuple[Tensor, ...],
        waveform_lengths: Tensor,
        masks: tuple[Tensor | None, Tensor | None] = (None, None),
        waveform_starts: Tensor | None = None,
    ) -> Tensor:
        """(A, S) waveforms → (P, H) LLM inputs of all audios, one after the other; of a tuple one encoder call each.

        Masks are applied to a single call only.
        """
        starts = torch.zeros_like(waveform_lengths) if waveform_starts is None else waveform_starts
        if isinstance(waveforms, Tensor):
            return self._encode_rows(waveforms, waveform_lengths, starts, masks)
        calls = [len(rows) for rows in waveforms]
        rows = zip(waveforms, waveform_lengths.split(calls), starts.split(calls), strict=True)
        return torch.cat([self._encode_rows(*call, (None, None)) for call in rows])

    def _encode_rows(
        self,
        waveforms: Tensor,
        waveform_lengths: Tensor,
        waveform_starts: Tensor,
        masks: tuple[Tensor | None, Tensor | None],
    ) -> Tensor:
        with torch.no_grad():
            features, frames = self.frontend(waveforms, waveform_lengths.tolist())
            features = mask_features(features, *masks, stacked=self.frontend.stacked)
            if self.encoder.longest is None:  # one that cuts windows pads those
                features = functional.pad(features, (0, 0, 0, -features.shape[1] % self.config.frame_multiple))
        with torch.set_grad_enabled(torch.is_grad_enabled() and "encoder" in self.trained):
            encoded = self.encoder(features, frames)
        return self.audio_projector(encoded, frames, [n / SAMPLE_RATE for n in waveform_starts.tolist()])

    # ---------------------------------------------------------------------------------------------------- generation

    def get_input_embeddings(self) -> Any:
        """The LLM's."""
        return self.llm.get_input_embeddings()

    @torch.no_grad()
    def generate(  # type: ignore[override]
        self,
        waveforms: Tensor,
        waveform_lengths: Tensor,
        input_ids: Tensor,
        attention_mask: Tensor,
        audio_index: Tensor,
        speaker_vectors: Tensor,
        speaker_index: Tensor,
        generation_config: GenerationConfig | None = None,
        stopping_criteria: Any = None,
        synced_gpus: bool = False,
        **kwargs: Any,
    ) -> Tensor:
        """Token ids (B, new) that answer a batch of prompts from :class:`SpeakerLMProcessor`.

        Args:
            waveforms: as in :meth:`forward`.
            waveform_lengths: as in :meth:`forward`.
            input_ids: (B, L) padded on the left.
            attention_mask: (B, L), 0 at padding.
            audio_index: as in :meth:`forward`, into the flattened ``input_ids``.
            speaker_vectors: as in :meth:`forward`.
            speaker_index: as ``audio_index``.
            generation_config: None: greedy search, not the LLM's own sampling defaults. Without an end or padding
                token it gets this model's. Without a limit it gets this model's, or more tokens than the longest audio
                can need, as far as the LLM's positions go.
            stopping_criteria: as transformers' ``generate`` takes them; they see new tokens only.
            synced_gpus: all ranks of a ZeRO-3 model generate together, each until the last has finished.
            kwargs: settings of ``generation_config``, which they win over; the rest for transformers' ``generate``.

        Raises:
            ModelError: the prompt and the answer together are longer than the LLM can be.
        """
        config = copy.deepcopy(generation_config) or GenerationConfig(do_sample=False)
        further = config.update(**kwargs)
        for name in ("eos_token_id", "pad_token_id"):
            if getattr(config, name) is None:
                setattr(config, name, getattr(self.generation_config, name, None))
        if config.max_new_tokens is None and config.max_length is None:  # transformers would stop after 20 tokens
            config.max_new_tokens = self._most_tokens(input_ids.shape[1], int(waveform_lengths.max()))
        self._check_length(input_ids.shape[1], len(audio_index), len(speaker_index), config)
        flat = self.embed(waveforms, waveform_lengths, input_ids.flatten(), audio_index, speaker_vectors, speaker_index)
        own, self.llm.generation_config = self.llm.generation_config, config
        try:
            return self.llm.generate(
                inputs_embeds=flat.view(*input_ids.shape, -1),
                attention_mask=attention_mask,
                generation_config=config,
                stopping_criteria=stopping_criteria,
                synced_gpus=synced_gpus,
                **further,
            )
        finally:
            self.llm.generation_config = own

    def _most_tokens(self, prompt: int, num_samples: int) -> int:
        own: int | None = getattr(self.generation_config, "max_new_tokens", None)
        most = own or answer_tokens(num_samples)
        limit = getattr(self.llm.config, "max_position_embeddings", None)
        return max(1, min(most, limit - prompt)) if limit else most

    def _check_length(self, prompt: int, audio: int, speakers: int, config: GenerationConfig) -> None:
        limit = getattr(self.llm.config, "max_position_embeddings", None)
        answer = config.max_new_tokens or 0
        if limit and prompt + answer > limit:
            raise ModelError(
                f"a prompt of {prompt} positions (in the batch: {audio} of audio, {speakers} registered speakers) and "
                f"{answer} new tokens do not fit the LLM's {limit} positions: give shorter audio, fewer speakers, "
                "fewer terms of a context or a smaller max_new_tokens"
            )

    def generate_text(
        self, prompts: Sequence[Prompt], tokenizer: PromptTokenizer, max_new_tokens: int = 1024, **kwargs: Any
    ) -> list[str]:
        """Answers to a batch of prompts, in eval mode, greedy unless ``kwargs`` say otherwise."""
        from pipeline.model.processing_speakerlm import SpeakerLMProcessor

        if not prompts:
            return []
        config = self.config
        processor = SpeakerLMProcessor(tokenizer, config.projector["stride"], config.speaker_dim, config.extractor)
        inputs = processor.encode(prompts).to(self.device)
        was_training = self.training
        self.eval()
        try:
            ids = self.generate(
                **inputs,
                max_new_tokens=max_new_tokens,
                eos_token_id=tokenizer.eos,
                pad_token_id=tokenizer.pad,
                **kwargs,
            )
        finally:
            self.train(was_training)
        return processor.batch_decode(ids)


def _llm_from_config(config: dict[str, Any]) -> PreTrainedModel:
    known = dict(config)
    if "model_type" not in known:
        raise ModelError("the configuration describes no LLM: llm.model_type is missing")
    llm_config = AutoConfig.for_model(known.pop("model_type"), **known)
    # In the dtype that from_pretrained is asked for, which it makes the default while a model is built.
    return AutoModelForCausalLM.from_config(llm_config, attn_implementation=register(), dtype=torch.get_default_dtype())
