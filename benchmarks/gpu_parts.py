"""Parts of benchmarks/gpu_step.py: the model, its micro-batches, the clock, and a row of the table."""

from __future__ import annotations

import gc
import json
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

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
    file: Path | None = None  # gets every row as it comes

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
        with torch.device(self.device), default_dtype(self.dtype):
            config = SpeakerLMConfig(**shape(self.small))
            self.model = SpeakerLMForConditionalGeneration(config)
        self.model.to(self.device, self.dtype)
        self.sizes = Sizes.of(self.model)

    def batch(self, positions: int, kind: str = "clips", pad: bool = False) -> tuple[dict[str, Any], list[Any]]:
        """A full micro-batch of clips or utterances."""
        from benchmarks.micro_batches import micro_batch

        samples = self.samples(positions, kind)
        vocabulary = self.model.llm.config.vocab_size
        return micro_batch(samples, vocabulary, self.model.config.speaker_dim, self.device, pad), samples

    def samples(self, positions: int, kind: str = "clips") -> list[Any]:
        """Lengths of the clips or utterances that fill a micro-batch."""
        from benchmarks.micro_batches import clips, full, utterances

        scale = 0.02 if self.small else 1.0
        return full(positions, (clips if kind == "clips" else utterances)(4000, scale=scale))

    def case(self, name: str, work: Callable[[], dict[str, Any]]) -> dict[str, Any] | None:
        """Run one, whatever becomes of it; None where it has no figures."""
        if self.left < 20 and not self.small:
            self.skip(name, "the time is used up")
            return None
        try:
            row = {"case": name, **work()}
        except Exception as e:  # noqa: BLE001 - out of memory, or a kernel that is missing: reported, and the rest continues
            row = {"case": name, "error": f"{type(e).__name__}: {str(e).splitlines()[0][:120] if str(e) else ''}"}
        self.forget()
        self._note(row)
        return None if "error" in row else row

    def skip(self, name: str, why: str) -> None:
        """List a case that is not run."""
        self._note({"case": name, "skipped": f"not run: {why}"})

    def _note(self, row: dict[str, Any]) -> None:
        """Keep a row, print it, and append it to the file of rows: a benchmark that is cut off keeps what it has."""
        self.rows.append(row)
        print(line(row), flush=True)
        if self.file is not None:
            with self.file.open("a", encoding="utf-8") as out:
                out.write(json.dumps(row) + "\n")
                out.flush()
                os.fsync(out.fileno())

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
    from pipeline.model.encoders.sensevoice import SHAPES, sensevoice_conf
    from pipeline.preflight.shapes import LLMS

    llm = dict(LLMS["Qwen2.5-7B-Instruct"])
    encoder = dict(SHAPES["SenseVoiceSmall"][1])
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
def default_dtype(dtype: Any) -> Iterator[None]:
    """New floating-point tensors have this type."""
    import torch

    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


HEAD = (
    f"{'case':60}{'positions':>10}{'s':>9}{'tokens/s':>10}{'audio h/h':>10}{'TFLOP/s':>9}{'MFU':>7}{'HFU':>7}{'GiB':>7}"
)


def line(row: dict[str, Any]) -> str:
    """Of the table."""
    if why := row.get("error") or row.get("skipped"):
        return f"{row['case']:60}  {why}"
    shares = "".join(f"{f'{100 * v:.1f}%' if v is not None else '–':>7}" for v in (row["mfu"], row["hfu"]))
    return (
        f"{row['case']:60}{row['positions']:>10,}{row['seconds']:>9.3f}{row['tokens_s']:>10,.0f}"
        f"{row['audio_h_h']:>10,.0f}{row['model_tflop_s']:>9.3g}{shares}{row['peak_gib']:>7.1f}"
    )
