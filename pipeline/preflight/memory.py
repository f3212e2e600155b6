"""Memory of a rank: what ZeRO keeps by formula, what a micro-batch adds by running it on tensors without content.

The second part is the model's own code, forward and backward, on the meta device: any LLM, LoRA, trainable set and
checkpointing gives what it gives, in seconds and without a card. The attention of a GPU's variable-length kernel is
taken, and ZeRO-3's linear layers, which keep their inputs even where their weights are frozen.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
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
    zero, stage = ds_config["zero_optimization"], zero_stage(dict(ds_config))
    width = 2 if dtype == "bfloat16" else 4
    total, held = sum(p.numel() for p in model.parameters()), _bytes(model.parameters(), width)
    learns = sum(p.numel() for p in model.parameters() if p.requires_grad)
    parts = dict.fromkeys(("weights", "gathered", "gradients", "optimizer", "buckets", "host"), 0)
    parts["optimizer"] = 12 * learns // world
    parts["gradients"] = 4 * learns // (world if stage >= 2 else 1) + (width * learns if stage < 2 else 0)
    parts["weights"] = held
    bucket = int(zero.get("reduce_bucket_size", 5e8))
    if stage == 2:
        parts["buckets"] = min(bucket, learns) * width * (2 if zero.get("overlap_comm") else 1)
    if stage == 3:
        threshold = int(zero.get("stage3_param_persistence_threshold", 1e5))
        kept = [p for p in model.parameters() if p.numel() <= threshold and world > 1]
        parts["weights"] = held // world + _bytes(kept, width)
        parts["buckets"] = bucket * width
        if world > 1:
            live = zero.get("stage3_max_live_parameters", 1e9) + zero.get("stage3_prefetch_bucket_size", 5e7)
            parts["gathered"] = held * int(min(total, live)) // total
    for setting, names in (("offload_param", ("weights",)), ("offload_optimizer", ("optimizer", "gradients"))):
        if zero.get(setting, {}).get("device", "none") != "none":
            for name in names:
                parts["host"] += parts[name]
                parts[name] = 0
    return parts


def _bytes(parameters: Iterable[Any], width: int) -> int:
    """Sum the bytes of parameters, ``width`` for an element of those that are not in 8 bits."""
    return sum(p.numel() * (width if p.is_floating_point() else 1) for p in parameters)


def activations(model: Any, load: Load, zero3: bool, on_cpu: bool = False) -> int:
    """Bytes that a micro-batch adds at its fullest moment, without gradients of trained parameters.

    Args:
        model: on the meta device, with the stage's trainable set, in train mode.
        load: the micro-batch's shape.
        zero3: take ZeRO-3's linear layers.
        on_cpu: the step runs on a CPU, where features are computed in pieces.
    """
    inputs = inputs_of(load, model)
    frontend = getattr(model, "frontend", None)
    if frontend is not None:
        frontend.meta_is_cpu = on_cpu
    with _zero3_linear(zero3), _fused_attention(), _released_gradients(model), LiveBytes() as live:
        model(**inputs).loss.backward()
    return live.peak


def inputs_of(load: Load, model: Any, device: str = "meta", vocabulary: int = 1) -> dict[str, Any]:
    """Arguments of the model's forward for a micro-batch of this shape: noise and random tokens, in valid places."""
    import torch

    from pipeline.frames import FRAME_SAMPLES, HOP_SAMPLES, LFR_SHIFT

    samples = [((f - 1) * LFR_SHIFT) * HOP_SAMPLES + FRAME_SAMPLES for f in load.frames]
    audio = sum(model.positions(n) for n in samples)  # of a thinker frames give them to within one an audio
    groups = load.groups()
    rows = tuple(0.1 * torch.randn(len(g), max(samples[i] for i in g), device=device) for g in groups)
    bounds = torch.tensor([0, *load.samples]).cumsum(0).to(torch.int32)
    where = torch.arange(load.positions, device=device)
    starts = bounds[:-1].long().repeat_interleave(torch.tensor(load.samples)).to(device)
    return {
        "waveforms": rows if load.calls > 1 else rows[0],
        "waveform_lengths": torch.tensor([samples[i] for group in groups for i in group]),
        "input_ids": torch.randint(0, vocabulary, (load.positions,), device=device),
        "position_ids": where - starts,
        "cu_seqlens": bounds,
        "audio_index": where[:audio],
        "speaker_vectors": torch.randn(load.speakers, model.config.speaker_dim, device=device),
        "speaker_index": where[audio : audio + load.speakers],
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


@contextmanager
def _fused_attention() -> Iterator[None]:
    """``scaled_dot_product_attention`` as a GPU computes it with a mask; the meta device would hold all scores."""
    import torch

    functional: Any = torch.nn.functional
    own = functional.scaled_dot_product_attention

    def fused(
        q: Any, k: Any, v: Any, attn_mask: Any = None, dropout_p: float = 0.0, is_causal: bool = False, **more: Any
    ) -> Any:
        if not q.is_meta:
            return own(q, k, v, attn_mask=attn_mask, dropout_p=dropout_p, is_causal=is_causal, **more)
        bias = None if attn_mask is None else attn_mask.to(q.dtype).expand(*q.shape[:3], k.shape[2])
        kernel = torch.ops.aten._scaled_dot_product_efficient_attention
        return kernel(q, k, v, bias, True, dropout_p, is_causal, scale=more.get("scale"))[0]

    functional.scaled_dot_product_attention = fused
    try:
        yield
    finally:
        functional.scaled_dot_product_attention = own


def estimate(
    model: Any,
    ds_config: Mapping[str, Any],
    dtype: str,
    world: int,
    load: Load,
    on_gpu: bool,
    added: int | None = None,
    on_cpu: bool = False,
) -> Memory:
    """Of one rank at the fullest moment of this micro-batch.

    Args:
        on_gpu: count what a GPU holds beside tensors.
        added: what :func:`activations` gives for it, if it is known.
        on_cpu: see :func:`activations`.
    """
    parts = states(model, ds_config, dtype, world)
    if added is None:
        added = activations(model, load, zero_stage(dict(ds_config)) == 3, on_cpu)
    other = CONTEXT + int(FRAGMENTS * added) + plan_bytes(load) if on_gpu else 0
    return Memory(activations=added, other=other, **parts)


def plan_bytes(load: Load) -> int:
    """Return the bytes of cuFFT's plans, which are outside torch's allocator; micro-batches are at most so large."""
    from pipeline.frames import LFR_SHIFT
    from pipeline.model.fourier import PLAN_BYTES, plans

    return PLAN_BYTES * plans(sum(load.frames) * LFR_SHIFT)
