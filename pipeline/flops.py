"""Floating-point operations of a micro-batch, counted from shapes.

The convention, which MFU and HFU are relative to:

- A weight of a matrix or convolution costs 2 operations (multiply, add) per position in the forward pass, 2 more for
  the gradient of its input, 2 more for its own: **6N** where it is trained, **4N** where it is frozen but gradients
  pass through it (the LLM under LoRA or in front of a projector), **2N** where nothing flows back (a frozen encoder).
- Attention scores and their product with the values: 4 · s² · width forward in a layer for a sample of s positions,
  half of that where it is causal; twice as much again backward.
- An encoder that computes several positions per frame (Whisper: 3, its first convolution 6) uses its weights as often;
  if it cuts utterances into windows, attention is counted per window.
- The output layer counts at target positions alone. Embedding look-ups, norms, activations and the filterbank count 0.
- **Model** operations (MFU) are those of valid positions and frames, once. **Hardware** operations (HFU) add what is
  computed without need: frames that are padding, and the second forward pass of layers with activation checkpointing.
  What an attention kernel recomputes inside itself is not counted.

After Narayanan et al. 2021 (arXiv 2104.04473) and PaLM's appendix B (arXiv 2204.02311); frozen parts are counted
separately.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from pipeline.encoder_calls import partition
from pipeline.frames import LFR_SHIFT, encoder_frames, padded_frames, windows
from pipeline.stages import Base, Checkpointing, module_of

FRAME_SECONDS = LFR_SHIFT / 100  # an encoder frame, the unit of audio in budgets


@dataclass(frozen=True, slots=True)
class Load:
    """Sizes that the cost of a micro-batch depends on."""

    samples: tuple[int, ...]  # LLM positions of each
    frames: tuple[int, ...]  # encoder frames of each audio
    audio_positions: int
    speakers: int
    targets: int
    calls: int = 1  # of the encoder

    @classmethod
    def of(cls, batch: Any) -> Load:
        """Of a collated micro-batch whose lengths are on the host."""
        bounds = batch.cu_seqlens.tolist()
        return cls(
            samples=tuple(b - a for a, b in pairwise(bounds)),
            frames=tuple(encoder_frames(n) for n in batch.waveform_lengths.tolist()),
            audio_positions=len(batch.audio_index),
            speakers=len(batch.speaker_vectors),
            targets=len(batch.target_ids),
            calls=len(batch.waveforms) if isinstance(batch.waveforms, tuple) else 1,
        )

    @property
    def positions(self) -> int:
        """LLM positions."""
        return sum(self.samples)

    @property
    def padded_frames(self) -> int:
        """Encoder frames that are computed."""
        return self.padded(1)[0]

    def groups(self, multiple: int = 1) -> list[list[int]]:
        """Return the numbers of the audios by encoder call, whose rows are padded to a multiple."""
        return partition(self.frames, self.calls, multiple)

    def padded(self, multiple: int) -> tuple[int, int]:
        """Frames, and pairs of frames, that the encoder computes where rows are padded to a multiple."""
        frames = pairs = 0
        for group in self.groups(multiple):
            row = max(padded_frames(self.frames[i], multiple) for i in group)
            frames, pairs = frames + len(group) * row, pairs + len(group) * row**2
        return frames, pairs

    def in_windows(self, longest: int | None) -> tuple[tuple[int, int], tuple[int, int]]:
        """Frames and pairs of frames in an encoder that cuts into windows: valid ones, and those that are computed."""
        cut = [w for n in self.frames for w in ([(0, n)] if longest is None else windows(n, longest))]
        sizes = [end - begin for begin, end in cut]
        most = max(sizes, default=0)
        return (sum(sizes), sum(n * n for n in sizes)), (len(sizes) * most, len(sizes) * most**2)

    @property
    def padded_squares(self) -> int:
        """Pairs of encoder frames that are computed."""
        return self.padded(1)[1]


@dataclass(frozen=True, slots=True)
class Sizes:
    """Weights of matrices and convolutions by where they are used, and the geometry of attention."""

    llm: int  # of the decoder's layers
    head: int
    lora: int
    encoder: int  # as often as a frame uses them
    projector: int  # its Transformer layers
    convolution: int
    speaker: int
    llm_layers: int
    llm_width: int  # heads × their dimension
    encoder_layers: int
    encoder_width: int
    projector_layers: int
    encoder_states: float = 1  # positions of the encoder's layers in a frame
    encoder_window: int | None = None  # frames; None: it cuts nothing
    frame_multiple: int = 1  # that rows of frames are padded to
    float8: bool = False  # the LLM's frozen matrices are

    @classmethod
    def of(cls, model: Any) -> Sizes:
        """Of a SpeakerLM or a thinker: on any device, meta too, and with parameters that ZeRO-3 has partitioned."""
        if (base := getattr(model, "base", Base.SPEAKERLM)) != Base.SPEAKERLM:
            return _thinker_sizes(model, base)
        counts = dict.fromkeys(("llm", "lora", "encoder", "audio_projector", "speaker_projector"), 0)
        outside = {id(p) for m in (model.get_input_embeddings(), _head(model)) for p in m.parameters()}
        convolution = 0
        for name, p in model.named_parameters():
            shape = tuple(getattr(p, "ds_shape", p.shape))
            if len(shape) < 2 or id(p) in outside:
                continue
            if name.startswith("audio_projector.conv."):
                convolution += _product(shape)
            else:
                module = module_of(name)
                times = model.encoder.states if module == "encoder" else 1
                if name == "encoder.conv1.weight":  # Whisper's second convolution halves the rate
                    times *= 2
                counts[module] += _product(shape) * times
        llm, encoder = model.llm.config, model.encoder
        heads = llm.num_attention_heads
        return cls(
            llm=counts["llm"],
            head=sum(_product(tuple(getattr(p, "ds_shape", p.shape))) for p in [_head(model).weight]),
            lora=counts["lora"],
            encoder=counts["encoder"],
            projector=counts["audio_projector"],
            convolution=convolution,
            speaker=counts["speaker_projector"],
            llm_layers=llm.num_hidden_layers,
            llm_width=heads * (getattr(llm, "head_dim", None) or llm.hidden_size // heads),
            encoder_layers=encoder.blocks,
            encoder_width=encoder.width,
            projector_layers=model.config.projector["layers"],
            encoder_states=encoder.states,
            encoder_window=encoder.longest,
            frame_multiple=model.config.frame_multiple if encoder.longest is None else 1,
            float8=any(not p.is_floating_point() for p in model.llm.parameters()),
        )


@dataclass(frozen=True, slots=True)
class Flops:
    """Model and hardware operations of one forward and backward pass."""

    model: float
    hardware: float
    by_module: Mapping[str, float]  # model operations
    float8: float = 0.0  # hardware operations in float8, at twice the speed


def count(
    sizes: Sizes, load: Load, trains: Iterable[str], checkpointing: Checkpointing | bool, backward: bool = True
) -> Flops:
    """Operations of a micro-batch.

    Args:
        trains: modules of stages.MODULES that learn.
        checkpointing: which activations are recomputed.
        backward: False: a forward pass alone.
    """
    learns = frozenset(trains)
    encoder_learns = "encoder" in learns
    s = sizes
    valid = (sum(load.frames), sum(f * f for f in load.frames))
    padded = load.padded(s.frame_multiple)
    in_encoder, computed = load.in_windows(s.encoder_window)
    computed = padded if s.encoder_window is None else computed

    def encoder(frames: int, squares: int) -> tuple[float, float]:
        return 2.0 * s.encoder * frames, 4.0 * s.encoder_width * s.encoder_layers * s.encoder_states**2 * squares

    def projector(frames: int, squares: int) -> tuple[float, float]:
        return 2.0 * s.projector * frames, 4.0 * s.encoder_width * s.encoder_states * s.projector_layers * squares

    llm = 2.0 * s.llm * load.positions
    llm_attention = 2.0 * s.llm_width * s.llm_layers * sum(n * n for n in load.samples)
    lora = 2.0 * s.lora * load.positions
    passes = 3 if backward else 1
    frozen_passes = 2 if backward else 1  # gradients pass through, none is kept

    def total(cost: Any, extent: tuple[int, int], flows_back: bool) -> float:
        return (passes if flows_back else 1) * float(sum(cost(*extent)))

    shared = {
        "llm": frozen_passes * llm + passes * llm_attention,
        "lora": (passes if "lora" in learns else frozen_passes) * lora,
        "head": frozen_passes * 2.0 * s.head * load.targets,
        "speaker_projector": passes * 2.0 * s.speaker * load.speakers,
    }
    convolution = passes * 2.0 * s.convolution * load.audio_positions
    by_module = {
        "encoder": total(encoder, in_encoder, encoder_learns),
        "audio_projector": total(projector, valid, True) + convolution,
        **shared,
    }
    hardware = total(encoder, computed, encoder_learns) + total(projector, padded, True) + convolution
    hardware += sum(shared.values())
    again = Checkpointing.of(checkpointing)
    if backward:
        hardware += again.again(s.llm_layers) * (llm + llm_attention + lora)
    if backward and again.encoder:
        hardware += sum(projector(*padded)) + (sum(encoder(*computed)) if encoder_learns else 0.0)
    float8 = llm * (1 + (again.again(s.llm_layers) if backward else 0)) if s.float8 else 0.0  # backward is in bf16
    return Flops(sum(by_module.values()), hardware, by_module, float8)


@dataclass(frozen=True)
class Meter:
    """Counts operations of a run's steps, and their share of the cards' peak."""

    sizes: Sizes
    trains: frozenset[str]
    checkpointing: Checkpointing | bool
    peak: float | None  # operations a second of all ranks together; None: not known of this hardware

    @classmethod
    def of(cls, model: Any, trains: Iterable[str], world_size: int) -> Meter:
        """For a model on this process's card, one of ``world_size`` alike."""
        from pipeline.cards import this_card

        found = this_card()
        peak = found.bf16_tflops * 1e12 * world_size if found else None
        return cls(Sizes.of(model), frozenset(trains), Checkpointing.of(model.config.activation_checkpointing), peak)

    def step(self, batches: Sequence[Any]) -> tuple[float, float]:
        """Model and hardware operations of micro-batches; empty ones are not of the model."""
        counted = [(count(self.sizes, Load.of(b), self.trains, self.checkpointing), b.weight > 0) for b in batches]
        return sum(f.model for f, real in counted if real), sum(f.hardware for f, _ in counted)

    def hardware(self, load: Load) -> float:
        """Hardware operations of one micro-batch."""
        return count(self.sizes, load, self.trains, self.checkpointing).hardware

    def share(self, operations: float, seconds: float) -> float | None:
        """Of the peak: MFU of model operations, HFU of hardware operations."""
        return operations / seconds / self.peak if self.peak and seconds else None


def _thinker_sizes(model: Any, base: Base) -> Sizes:
    """Sizes of a thinker. A token uses its share of the experts; the encoder's uses are counted per 60 ms.

    Its convolutions slide over features of 10 ms: Qwen2.5-Omni's two at 100 and 50 a second, Qwen3-Omni's three over a
    plane of features and bands, whose sides each of them halves.
    """
    text, audio = model.llm.config.get_text_config(), model.llm.config.audio_config
    chosen = text.num_experts_per_tok / text.num_experts if base is Base.QWEN3_OMNI else 1.0
    rate = 50.0 if base is Base.QWEN2_5_OMNI else 13.0  # of the encoder's layers a second
    planes = {f"conv2d{i}": -(-100 // 2**i) * -(-audio.num_mel_bins // 2**i) for i in (1, 2, 3)}
    uses = {"conv1": 100.0, "proj": 25.0, **planes}  # a second, where others than the layers'
    counts = {"llm": 0.0, "lora": 0.0, "head": 0.0, "encoder": 0.0}
    for name, p in model.named_parameters():
        shape = tuple(getattr(p, "ds_shape", p.shape))
        if len(shape) < 2 or "embed_tokens" in name or "audio_bos_eos_token" in name:
            continue
        if ".audio_tower." in name:
            part = name.partition(".audio_tower.")[2].partition(".")[0]
            counts["encoder"] += _product(shape) * uses.get(part, rate) * FRAME_SECONDS
        elif "lm_head" in name:
            counts["head"] += _product(shape)
        else:
            counts[module_of(name)] += _product(shape) * (chosen if ".experts." in name else 1.0)
    heads = text.num_attention_heads
    window = 2 * audio.n_window if base is Base.QWEN2_5_OMNI else audio.n_window_infer
    return Sizes(
        llm=round(counts["llm"]),
        head=round(counts["head"]),
        lora=round(counts["lora"]),
        encoder=round(counts["encoder"]),
        projector=0,
        convolution=0,
        speaker=0,
        llm_layers=text.num_hidden_layers,
        llm_width=heads * (getattr(text, "head_dim", None) or text.hidden_size // heads),
        encoder_layers=audio.encoder_layers,
        encoder_width=audio.d_model,
        projector_layers=0,
        encoder_states=rate * FRAME_SECONDS,
        encoder_window=max(1, window // LFR_SHIFT),
    )


def _head(model: Any) -> Any:
    return model.llm.get_output_embeddings()


def _product(shape: Sequence[int]) -> int:
    out = 1
    for n in shape:
        out *= n
    return out
