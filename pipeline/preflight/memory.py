"""Memory of a rank: what ZeRO keeps by formula, what a micro-batch adds by running it on tensors without content.

The second part is the model's own code, forward and backward, on the meta device: any LLM, LoRA, trainable set and
checkpointing gives what it gives, in seconds and without a card. The attention of a GPU's variable-length kernel is
taken, and ZeRO-3's linear layers, which keep their inputs even where their weights are frozen.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from pipeline.flops import Load
from pipeline.preflight.live_memory import LiveBytes
from pipeline.recipe.deepspeed import zero_stage

GIB = 2**30
CONTEXT = int(1.5 * GIB)  # assumed: CUDA's context, NCCL's buffers, cuBLAS's workspace
FRAGMENTS = 0.05  # assumed: what the allocator loses, of what a micro-batch adds


@dataclass(frozen=True)
class Memory:
    """Bytes on a rank's device, and on its host where something is offloaded."""

    weights: int
    gathered: int  # whole parameters of layers at work, ZeRO-3
    gradients: int
    optimizer: int  # masters and Adam's moments
    buckets: int
    activations: int  # at the fullest moment of the largest micro-batch, logits and temporaries included
    other: int
    host: int

    @property
    def device(self) -> int:
        """All of it."""
        return self.states + self.gathered + self.activations + self.other

    @property
    def states(self) -> int:
        """Bytes that stay between steps."""
        return self.weights + self.gradients + self.optimizer + self.buckets


def states(model: Any, ds_config: Mapping[str, Any], dtype: str, world: int) -> dict[str, int]:
    """Bytes that ZeRO keeps on a rank between micro-batches, and gathers during one; sizes follow DeepSpeed 0.19.

    Args:
        model: with the stage's trainable set; may be on the meta device.
        ds_config: resolved.
        dtype: of the weights, ``bfloat16`` or ``float32``.
        world: ranks.
    """
    zero, stage = ds_config.get("zero_optimization", {}), zero_stage(dict(ds_config))
    width = 2 if dtype == "bfloat16" else 4
    total = sum(p.numel() for p in model.parameters())
    learns = sum(p.numel() for p in model.parameters() if p.requires_grad)
    share = 1 if stage == 0 else world
    parts = dict.fromkeys(("weights", "gathered", "gradients", "optimizer", "buckets", "host"), 0)
    parts["optimizer"] = 12 * learns // share
    parts["gradients"] = 4 * learns // (share if stage >= 2 else 1) + (width * learns if stage < 2 else 0)
    parts["weights"] = width * total
    bucket = int(zero.get("reduce_bucket_size", 5e8))
    if stage == 2:
        parts["buckets"] = min(bucket, learns) * width * (2 if zero.get("overlap_comm") else 1)
    if stage == 3:
        threshold = int(zero.get("stage3_param_persistence_threshold", 1e5))
        kept = sum(p.numel() for p in model.parameters() if p.numel() <= threshold) if world > 1 else 0
        parts["weights"] = width * (total // world + kept)
        parts["buckets"] = bucket * width
        if world > 1:
            live = zero.get("stage3_max_live_parameters", 1e9) + zero.get("stage3_prefetch_bucket_size", 5e7)
            parts["gathered"] = width * int(min(total, live))
    for setting, names in (("offload_param", ("weights",)), ("offload_optimizer", ("optimizer", "gradients"))):
        if zero.get(setting, {}).get("device", "none") != "none":
            for name in names:
                parts["host"] += parts[name]
                parts[name] = 0
    return parts


def activations(model: Any, load: Load, zero3: bool) -> int:
    """Bytes that a micro-batch adds at its fullest moment, without gradients of trained parameters.

    Args:
        model: on the meta device, with the stage's trainable set, in train mode.
        load: the micro-batch's shape.
        zero3: take ZeRO-3's linear layers.
    """
    inputs = inputs_of(load, model.config.speaker_dim)
    with _zero3_linear(zero3), _released_gradients(model), LiveBytes() as live:
        model(**inputs).loss.backward()
    return live.peak


def inputs_of(load: Load, speaker_dim: int, device: str = "meta", vocabulary: int = 1) -> dict[str, Any]:
    """Arguments of the model's forward for a micro-batch of this shape: noise and random tokens, in valid places."""
    import torch

    from pipeline.frames import FRAME_SAMPLES, HOP_SAMPLES, LFR_SHIFT

    samples = [((f - 1) * LFR_SHIFT) * HOP_SAMPLES + FRAME_SAMPLES for f in load.frames]
    bounds = torch.tensor([0, *load.samples]).cumsum(0).to(torch.int32)
    where = torch.arange(load.positions, device=device)
    starts = bounds[:-1].long().repeat_interleave(torch.tensor(load.samples)).to(device)
    return {
        "waveforms": 0.1 * torch.randn(len(samples), max(samples), device=device),
        "waveform_lengths": torch.tensor(samples),
        "input_ids": torch.randint(0, vocabulary, (load.positions,), device=device),
        "position_ids": where - starts,
        "cu_seqlens": bounds,
        "audio_index": where[: load.audio_positions],
        "speaker_vectors": torch.randn(load.speakers, speaker_dim, device=device),
        "speaker_index": where[load.audio_positions : load.audio_positions + load.speakers],
        "target_index": where[-load.targets :],
        "target_ids": torch.randint(0, vocabulary, (load.targets,), device=device),
    }


@contextmanager
def _released_gradients(model: Any) -> Iterator[None]:
    """Drop each gradient as soon as it is computed, as ZeRO does."""

    def release(parameter: Any) -> None:
        parameter.grad = None

    hooks = [p.register_post_accumulate_grad_hook(release) for p in model.parameters() if p.requires_grad]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


@contextmanager
def _zero3_linear(on: bool) -> Iterator[None]:
    """``torch.nn.functional.linear`` as ``zero.Init`` replaces it."""
    import torch

    own = torch.nn.functional.linear
    if on:
        from deepspeed.runtime.zero.linear import zero3_linear_wrap

        torch.nn.functional.linear = zero3_linear_wrap
    try:
        yield
    finally:
        torch.nn.functional.linear = own


def estimate(model: Any, ds_config: Mapping[str, Any], dtype: str, world: int, load: Load, on_gpu: bool) -> Memory:
    """Of one rank at the fullest moment of this micro-batch."""
    parts = states(model, ds_config, dtype, world)
    added = activations(model, load, zero_stage(dict(ds_config)) == 3)
    other = CONTEXT + int(FRAGMENTS * added) if on_gpu else 0
    return Memory(activations=added, other=other, **parts)
