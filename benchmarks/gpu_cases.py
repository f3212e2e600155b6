"""The cases of benchmarks/gpu_step.py: each makes its step, has it timed, and gives a row of figures."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmarks.gpu_needs import NAMES, Case
from benchmarks.gpu_parts import LORA, Bench, default_dtype, shape

ROOT = Path(__file__).resolve().parents[1]


def stage_step(b: Bench, stage: int, loss: Callable[[], Any]) -> Callable[[], None]:
    """Forward, backward, AdamW on what the stage trains (its states in the weights' dtype)."""
    import torch

    from pipeline.stages import STAGES

    b.model.trainable(STAGES[stage].trains)
    b.model.train()
    trained = [p for p in b.model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-6, fused=b.device == "cuda")

    def step() -> None:
        loss().backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return step


def ours(b: Bench, case: Case) -> dict[str, Any]:
    """A stage's step, packed."""
    b.model.set_checkpointing(NAMES[case.checkpointing])
    batch, samples = b.batch(case.positions)
    with lora_dropout(b.model, case.dropout):
        step = stage_step(b, case.stage, lambda: b.model(**batch).loss)
        seconds, peak = b.timed(step)
    return b.figures(batch, samples, case.stage, seconds, peak)


@contextmanager
def lora_dropout(model: Any, rate: float | None) -> Iterator[None]:
    """LoRA's dropout at another rate; None: as it is."""
    import torch

    layers = [m for n, m in model.named_modules() if "lora_dropout" in n and isinstance(m, torch.nn.Dropout)]
    before = [m.p for m in layers]
    for m in layers:
        m.p = m.p if rate is None else rate
    try:
        yield
    finally:
        for m, p in zip(layers, before, strict=True):
            m.p = p


def padded(b: Bench, positions: int, pad: bool) -> dict[str, Any]:
    """Utterances in stage 1, packed or padded; the same samples."""
    from benchmarks.micro_batches import padded_loss

    b.model.set_checkpointing(True)
    batch, samples = b.batch(positions, "utterances", pad)
    loss = (lambda: padded_loss(b.model, batch, samples)) if pad else (lambda: b.model(**batch).loss)
    seconds, peak = b.timed(stage_step(b, 1, loss))
    return b.figures(batch, samples, 1, seconds, peak)


def whole_logits(b: Bench, positions: int) -> dict[str, Any]:
    """Stage 4 with logits at every position and torch's cross-entropy in place of the chunked loss."""
    import torch

    from pipeline.model import packed_attention as packing

    b.model.set_checkpointing(True)
    batch, samples = b.batch(positions)
    names = ("waveforms", "waveform_lengths", "input_ids", "audio_index", "speaker_vectors", "speaker_index")

    def loss() -> Any:
        embeds = b.model.embed(**{n: batch[n] for n in names})
        hidden = b.model.llm.get_decoder()(
            inputs_embeds=embeds.unsqueeze(0),
            attention_mask=packing.no_mask(embeds.device),
            position_ids=batch["position_ids"].unsqueeze(0),
            segments=packing.Segments.of(batch["cu_seqlens"], embeds.device),
            use_cache=False,
        ).last_hidden_state[0]
        logits = b.model.llm.get_output_embeddings()(hidden).float()
        labels = torch.full((len(hidden),), -100, device=hidden.device)
        labels[batch["target_index"]] = batch["target_ids"]
        return torch.nn.functional.cross_entropy(logits, labels, reduction="sum", ignore_index=-100)

    seconds, peak = b.timed(stage_step(b, 4, loss))
    return b.figures(batch, samples, 4, seconds, peak)


def plain_text(b: Bench, positions: int) -> Callable[[], None]:
    """A step of transformers' causal LM of the same size with peft's LoRA: text in rows of equal length, no padding."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoConfig, AutoModelForCausalLM

    known = dict(shape(b.small)["llm"])
    with torch.device(b.device), default_dtype(b.dtype):
        config = AutoConfig.for_model(known.pop("model_type"), **known)
        llm = AutoModelForCausalLM.from_config(config, attn_implementation="sdpa")
    llm.to(b.device, b.dtype)
    lora = LoraConfig(r=16, lora_alpha=32, lora_dropout=0.05, target_modules=LORA["targets"], task_type="CAUSAL_LM")
    peer: Any = get_peft_model(llm, lora, autocast_adapter_dtype=False)
    peer.activation_checkpointing_enable()
    peer.enable_input_require_grads()
    peer.train()
    rows = 2 if b.small else max(1, positions // 857)
    ids = torch.randint(0, config.vocab_size, (rows, positions // rows), device=b.device)
    trained = [p for p in peer.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-6, fused=b.device == "cuda")

    def step() -> None:
        peer(input_ids=ids, labels=ids).loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return step


def beside_plain_text(b: Bench, positions: int) -> dict[str, Any]:
    """Both in turn, with checkpointing; tokens are LLM positions. Ours also encodes audio."""
    b.model.set_checkpointing(True)
    batch, samples = b.batch(positions)
    step, peer = stage_step(b, 4, lambda: b.model(**batch).loss), plain_text(b, positions)
    rows = 2 if b.small else max(1, positions // 857)
    peer_positions = rows * (positions // rows)
    ratios, found = [], {}
    for _ in range(2):
        (mine, peak), (theirs, peer_peak) = b.timed(step), b.timed(peer)
        ratios.append((sum(s.positions for s in samples) / mine) / (peer_positions / theirs))
        found = b.figures(batch, samples, 4, mine, peak) | {"plain_tokens_s": peer_positions / theirs}
        found["plain_peak_gib"] = peer_peak
    return found | {"over_plain": sum(ratios) / len(ratios), "over_plain_each": ratios}


def deepspeed_step(b: Bench, positions: int) -> dict[str, Any]:
    """Stage 4 through the engine that trains, ZeRO-3 on one rank, in place of a bare AdamW."""
    b.model.set_checkpointing(True)
    batch, samples = b.batch(positions)
    _, step = engine_step(b, batch, 3)
    seconds, peak = b.timed(step)
    return b.figures(batch, samples, 4, seconds, peak)


def engine_step(b: Bench, batch: dict[str, Any], zero: int, timer: bool = False) -> tuple[Any, Callable[[], None]]:
    """DeepSpeed's engine for stage 4 on one rank, and its step.

    Args:
        timer: DeepSpeed's own throughput timer, which waits for the device.
    """
    from pipeline.ranks.launch import init_distributed
    from pipeline.recipe.deepspeed import resolve_deepspeed
    from pipeline.recipe.schema import DataConfig, DatasetConfig, LlmConfig, ModelConfig, Recipe
    from pipeline.stages import STAGES
    from pipeline.train.engine import initialize

    init_distributed(300)
    b.model.trainable(STAGES[4].trains)
    b.model.train()
    on_gpu = b.device == "cuda"
    file = f"zero{zero}.json" if on_gpu else "zero3_cpu.json"
    recipe = Recipe(
        name="bench", stage=4, output="none", init_from="none", deepspeed=str(ROOT / "ds_configs" / file),
        model=ModelConfig(llm=LlmConfig(checkpoint="none"), extractor="none"),
        data=DataConfig(train=[DatasetConfig(path="none")], micro_batches_per_step=1),
    )  # fmt: skip
    ds_config = resolve_deepspeed(recipe, 1) | {"timers": {"throughput": {"enabled": timer}}}
    if not on_gpu:
        ds_config["zero_optimization"]["stage"] = zero
    engine = initialize(b.model, ds_config)

    def step() -> None:
        engine.backward(engine(**batch).loss, scale_wrt_gas=False)
        engine.step()

    return engine, step
