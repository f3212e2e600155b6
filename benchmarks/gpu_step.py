"""The step on one GPU at the sizes of the 7B recipe, with random weights: speed, MFU, HFU and memory.

    python benchmarks/gpu_step.py                # Qwen2.5-7B and SenseVoiceSmall sizes, under 10 minutes on an H100
    python benchmarks/gpu_step.py --small        # tiny sizes on whatever is here: does every case run?

Cases: the four stages' trainable sets at 2 k, 6 k and 16 k positions with activation checkpointing; without it where
memory allows; packed against padded utterances; the chunked loss on and off; against a plain transformers LLM with
peft's LoRA on text of as many positions, interleaved. A case that fails says why and the rest go on; when the time is
used up, cases that are left are listed as not run. A step is forward, backward and AdamW; timed after one that is not.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
os.environ.setdefault("PYTORCH_CUDA_ALLOC_CONF", "expandable_segments:True")

TARGETS = {"mfu_stage4_6k": 0.40, "packed_over_padded": 1.8, "ours_over_plain_text": 0.95}
LORA = {"r": 16, "alpha": 32, "dropout": 0.05,
        "targets": ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]}  # fmt: skip


@dataclass
class Bench:
    """The model under test, the clock, and what was found."""

    small: bool
    device: str
    dtype: Any
    budget: float
    repeats: int
    began: float = field(default_factory=time.perf_counter)
    rows: list[dict[str, Any]] = field(default_factory=list)
    model: Any = None
    sizes: Any = None
    peak: float | None = None  # operations a second of this card

    @property
    def positions(self) -> tuple[int, int, int]:
        """Of a micro-batch: the three sizes."""
        return (60, 120, 240) if self.small else (2048, 6000, 16384)

    @property
    def left(self) -> float:
        """Seconds."""
        return self.budget - (time.perf_counter() - self.began)

    def build(self) -> None:
        """SpeakerLM with random weights, made on the device."""
        import torch

        from pipeline.cards import this_card
        from pipeline.flops import Sizes
        from pipeline.model.configuration_speakerlm import SpeakerLMConfig
        from pipeline.model.modeling_speakerlm import SpeakerLMForConditionalGeneration

        card = this_card() if self.device == "cuda" else None
        self.peak = card.bf16_tflops * 1e12 if card else None
        torch.manual_seed(0)
        with torch.device(self.device), _default_dtype(self.dtype):
            config = SpeakerLMConfig(**shape(self.small))
            self.model = SpeakerLMForConditionalGeneration(config)
        self.model.to(self.device, self.dtype)
        self.sizes = Sizes.of(self.model)

    def batch(self, positions: int, kind: str = "clips", pad: bool = False) -> tuple[dict[str, Any], list[Any]]:
        """A full micro-batch of clips or utterances."""
        from benchmarks.micro_batches import clips, full, micro_batch, utterances

        scale = 0.02 if self.small else 1.0
        samples = full(positions, (clips if kind == "clips" else utterances)(4000, scale=scale))
        vocabulary = self.model.llm.config.vocab_size
        return micro_batch(samples, vocabulary, self.model.config.speaker_dim, self.device, pad), samples

    def case(self, name: str, work: Callable[[], dict[str, Any]]) -> dict[str, Any] | None:
        """Run one, whatever becomes of it; None where it has no figures."""
        if self.left < 20 and not self.small:
            self.rows.append({"case": name, "error": "not run: the time is used up"})
            return None
        try:
            row = {"case": name, **work()}
        except Exception as e:  # noqa: BLE001 - out of memory, or a kernel that is missing: said, and the rest goes on
            row = {"case": name, "error": f"{type(e).__name__}: {str(e).splitlines()[0][:120] if str(e) else ''}"}
        self.rows.append(row)
        self.forget()
        print(line(row), flush=True)
        return None if "error" in row else row

    def forget(self) -> None:
        """Drop what a case has left."""
        import torch

        if self.model is not None:
            self.model.zero_grad(set_to_none=True)
        gc.collect()
        if self.device == "cuda":
            torch.cuda.empty_cache()

    def timed(self, step: Callable[[], None]) -> tuple[float, float]:
        """Seconds of a step (median) and GiB at its fullest moment."""
        import torch

        on_gpu = self.device == "cuda"
        step()
        if on_gpu:
            torch.cuda.synchronize()
            torch.cuda.reset_peak_memory_stats()
        seconds = []
        for _ in range(self.repeats):
            began = time.perf_counter()
            step()
            if on_gpu:
                torch.cuda.synchronize()
            seconds.append(time.perf_counter() - began)
        peak = torch.cuda.max_memory_allocated() / 2**30 if on_gpu else 0.0
        return sorted(seconds)[len(seconds) // 2], peak

    def figures(
        self, batch: dict[str, Any], samples: list[Any], stage: int, seconds: float, peak: float
    ) -> dict[str, Any]:
        """One row."""
        from types import SimpleNamespace

        from pipeline.flops import Load, count
        from pipeline.stages import STAGES

        load = Load.of(SimpleNamespace(**batch))
        work = count(self.sizes, load, STAGES[stage].trains, self.model.config.activation_checkpointing)
        valid = sum(s.positions for s in samples)
        return {
            "positions": valid,
            "seconds": seconds,
            "tokens_s": valid / seconds,
            "audio_h_h": sum(s.seconds for s in samples) / seconds,
            "model_tflop_s": work.model / seconds / 1e12,
            "mfu": work.model / seconds / self.peak if self.peak else None,
            "hfu": work.hardware / seconds / self.peak if self.peak else None,
            "peak_gib": peak,
        }


def shape(small: bool) -> dict[str, Any]:
    """Arguments of SpeakerLMConfig."""
    from pipeline.model.checkpoints import sensevoice_conf
    from pipeline.preflight.shapes import ENCODERS, LLMS

    llm = dict(LLMS["Qwen2.5-7B-Instruct"])
    encoder = dict(ENCODERS["SenseVoiceSmall"])
    projector = {"layers": 2, "heads": 8, "ffn": 2048, "dropout": 0.1, "stride": 2}
    if small:
        llm |= {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4,
                "num_key_value_heads": 2, "vocab_size": 500}  # fmt: skip
        encoder, projector = sensevoice_conf(32, 2, 1), {**projector, "heads": 4, "ffn": 64}
    return {
        "encoder_conf": encoder, "feature_shift": [-8.0] * 560, "feature_scale": [0.2] * 560, "projector": projector,
        "llm": llm, "lora": LORA,
    }  # fmt: skip


@contextmanager
def _default_dtype(dtype: Any) -> Iterator[None]:
    import torch

    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


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


def ours(b: Bench, stage: int, positions: int, on: bool, dropout: float | None = None) -> dict[str, Any]:
    """A stage's step, packed, with or without activation checkpointing."""
    from benchmarks.micro_batches import checkpointing

    checkpointing(b.model, on)
    batch, samples = b.batch(positions)
    with _lora_dropout(b.model, dropout):
        step = stage_step(b, stage, lambda: b.model(**batch).loss)
        seconds, peak = b.timed(step)
    return b.figures(batch, samples, stage, seconds, peak)


@contextmanager
def _lora_dropout(model: Any, rate: float | None) -> Iterator[None]:
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
    from benchmarks.micro_batches import checkpointing, padded_loss

    checkpointing(b.model, True)
    batch, samples = b.batch(positions, "utterances", pad)
    loss = (lambda: padded_loss(b.model, batch, samples)) if pad else (lambda: b.model(**batch).loss)
    seconds, peak = b.timed(stage_step(b, 1, loss))
    return b.figures(batch, samples, 1, seconds, peak)


def whole_logits(b: Bench, positions: int) -> dict[str, Any]:
    """Stage 4 with logits at every position and torch's cross-entropy in place of the chunked loss."""
    import torch

    from benchmarks.micro_batches import checkpointing
    from pipeline.model import packing

    checkpointing(b.model, True)
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
    with torch.device(b.device), _default_dtype(b.dtype):
        config = AutoConfig.for_model(known.pop("model_type"), **known)
        llm = AutoModelForCausalLM.from_config(config, attn_implementation="sdpa")
    llm.to(b.device, b.dtype)
    lora = LoraConfig(r=16, lora_alpha=32, lora_dropout=0.05, target_modules=LORA["targets"], task_type="CAUSAL_LM")
    peer: Any = get_peft_model(llm, lora, autocast_adapter_dtype=False)
    peer.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
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
    """Both in turn, with checkpointing; tokens are LLM positions. Ours encodes audio besides."""
    from benchmarks.micro_batches import checkpointing

    checkpointing(b.model, True)
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
    from benchmarks.micro_batches import checkpointing
    from pipeline.config import DataConfig, DatasetConfig, LlmConfig, ModelConfig, Recipe
    from pipeline.engine import init_distributed, initialize, resolve_deepspeed
    from pipeline.stages import STAGES

    init_distributed(300)
    checkpointing(b.model, True)
    batch, samples = b.batch(positions)
    b.model.trainable(STAGES[4].trains)
    b.model.train()
    recipe = Recipe(
        name="bench", stage=4, output="none", init_from="none",
        deepspeed=str(ROOT / "ds_configs" / ("zero3.json" if b.device == "cuda" else "zero3_cpu.json")),
        model=ModelConfig(llm=LlmConfig(checkpoint="none"), extractor="none"),
        data=DataConfig(train=[DatasetConfig(path="none")], micro_batches_per_step=1),
    )  # fmt: skip
    engine = initialize(b.model, resolve_deepspeed(recipe, 1))

    def step() -> None:
        engine.backward(engine(**batch).loss, scale_wrt_gas=False)
        engine.step()

    seconds, peak = b.timed(step)
    return b.figures(batch, samples, 4, seconds, peak)


def run(b: Bench) -> dict[str, float | None]:
    """All cases, the most telling first; figures for the targets."""
    short, middle, long = b.positions
    b.build()
    figures: dict[str, float | None] = {}
    main = b.case(f"stage 4, {middle}, checkpointing", lambda: ours(b, 4, middle, True))
    bare = b.case(f"stage 4, {middle}, none", lambda: ours(b, 4, middle, False))
    dry = b.case(f"stage 4, {middle}, none, no LoRA dropout", lambda: ours(b, 4, middle, False, dropout=0.0))
    if bare is None:
        for part in (3, 2):
            size = middle * part // 4
            if b.case(f"stage 4, {size}, none", lambda size=size: ours(b, 4, size, False)):
                break
    best = bare or dry
    figures["mfu_stage4_6k"] = best["mfu"] if best else None
    figures["mfu_stage4_6k_checkpointing"] = main["mfu"] if main else None
    rows = {
        pad: b.case(f"utterances, {middle}, {'padded' if pad else 'packed'}", lambda pad=pad: padded(b, middle, pad))
        for pad in (False, True)
    }
    figures["packed_over_padded"] = _ratio(rows[False], rows[True])
    off = b.case(f"stage 4, {middle}, logits everywhere", lambda: whole_logits(b, middle))
    figures["chunked_loss_speedup"] = _ratio(main, off)
    figures["chunked_loss_saves_gib"] = off["peak_gib"] - main["peak_gib"] if main and off else None
    beside = b.case(f"stage 4 beside plain text, {middle}", lambda: beside_plain_text(b, middle))
    figures["ours_over_plain_text"] = beside["over_plain"] if beside else None
    for stage in (1, 2, 3, 4):
        for size in (short, middle, long):
            if (stage, size) != (4, middle):
                b.case(f"stage {stage}, {size}, checkpointing", lambda s=stage, n=size: ours(b, s, n, True))
    for stage in (1, 2, 3, 4):
        b.case(f"stage {stage}, {short}, none", lambda s=stage: ours(b, s, short, False))
    for stage in (2, 3):
        b.case(f"stage {stage}, {middle}, none", lambda s=stage: ours(b, s, middle, False))
    engine = b.case(f"stage 4, {middle}, checkpointing, DeepSpeed ZeRO-3", lambda: deepspeed_step(b, middle))
    figures["deepspeed_over_bare"] = _ratio(engine, main)
    return figures


def _ratio(a: dict[str, Any] | None, b: dict[str, Any] | None) -> float | None:
    return a["tokens_s"] / b["tokens_s"] if a and b else None


HEAD = (
    f"{'case':46}{'positions':>10}{'s':>9}{'tokens/s':>10}{'audio h/h':>10}{'TFLOP/s':>9}{'MFU':>7}{'HFU':>7}{'GiB':>7}"
)


def line(row: dict[str, Any]) -> str:
    """Of the table."""
    if "error" in row:
        return f"{row['case']:46}  {row['error']}"
    shares = "".join(f"{f'{100 * v:.1f}%' if v is not None else '–':>7}" for v in (row["mfu"], row["hfu"]))
    return (
        f"{row['case']:46}{row['positions']:>10,}{row['seconds']:>9.3f}{row['tokens_s']:>10,.0f}"
        f"{row['audio_h_h']:>10,.0f}{row['model_tflop_s']:>9.3g}{shares}{row['peak_gib']:>7.1f}"
    )


def main() -> int:
    """Run, print the table and one line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--small", action="store_true", help="tiny sizes, on a CPU too")
    parser.add_argument("--check", action="store_true", help="exit 1 where a target is missed or a case has failed")
    parser.add_argument("--seconds", type=float, default=540, help="no case is begun later than this")
    parser.add_argument("--repeats", type=int, default=3, help="timed steps of a case")
    parser.add_argument("--out", type=Path, help="folder for gpu_step.json with every row")
    args = parser.parse_args()
    import torch

    from pipeline.model.packing import choose

    on_gpu = torch.cuda.is_available()
    if not on_gpu:
        torch.set_num_threads(1)
    if not on_gpu and not args.small:
        print("no GPU here: --small runs every case at tiny sizes on a CPU", file=sys.stderr)
        return 2
    device, dtype = ("cuda", torch.bfloat16) if on_gpu else ("cpu", torch.float32)
    bench = Bench(args.small, device, dtype, args.seconds, args.repeats)
    name = torch.cuda.get_device_name() if on_gpu else "CPU"
    print(f"{name}, torch {torch.__version__}, packed attention by {choose(device, dtype)}")
    print(HEAD, flush=True)
    figures = run(bench)
    failed = [r["case"] for r in bench.rows if "error" in r]
    if failed:
        print(f"{len(failed)} of {len(bench.rows)} cases have no figures: {'; '.join(failed)}")
    targets = {} if args.small else TARGETS
    met = all((figures.get(n) or 0) >= least for n, least in targets.items())
    rounded = {n: round(v, 4) if v is not None else None for n, v in figures.items()}
    if args.out:
        args.out.mkdir(parents=True, exist_ok=True)
        where = {"device": name, "torch": torch.__version__, "seconds": time.perf_counter() - bench.began}
        (args.out / "gpu_step.json").write_text(json.dumps({**where, "rows": bench.rows, "figures": rounded}, indent=1))
    print(json.dumps({"name": "gpu_step", "figures": rounded, "targets": targets, "met": met}))
    return int(args.check and (not met or bool(failed)))


if __name__ == "__main__":
    sys.exit(main())
