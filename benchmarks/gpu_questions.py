"""The first questions to a GPU: each yields rows of figures as they are found. Asked by benchmarks/gpu_first.py."""

from __future__ import annotations

import random
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from benchmarks.gpu_cases import engine_step, ours, stage_step
from benchmarks.gpu_needs import NAMES, Case, Needs, card_gib
from benchmarks.gpu_options import options
from benchmarks.gpu_parts import Bench

Row = dict[str, Any]


@dataclass(frozen=True)
class Where:
    """Sizes and device that the questions are about."""

    small: bool
    device: str
    dtype: Any

    def bench(self) -> Bench:
        """The model under test, on the device, with everything checkpointed."""
        b = Bench(self.small, self.device, self.dtype, budget=1e9, repeats=3)
        b.build()
        b.model.set_checkpointing(True)
        return b

    def wait(self) -> None:
        """For the device."""
        import torch

        if self.device == "cuda":
            torch.cuda.synchronize()


def kernels(at: Where) -> Iterator[Row]:
    """Relative error of packed attention's kernels (output and gradients) to fp32, and of the frontend to a CPU."""
    import torch

    from pipeline.model import packed_attention
    from pipeline.model.encoders.sensevoice import FRONTEND_CONF
    from pipeline.model.sensevoice_frontend import Frontend

    torch.manual_seed(0)
    heads, kv_heads, dim, lengths = (4, 2, 16, [9, 3, 1]) if at.small else (28, 4, 128, [857, 1300, 17, 1, 640])
    total = sum(lengths)
    bounds = torch.tensor([0, *lengths]).cumsum(0).int()
    segments = packed_attention.Segments.of(bounds, torch.device(at.device))
    inputs = [torch.randn(1, h, total, dim, device=at.device) for h in (heads, kv_heads, kv_heads)]
    weight = torch.randn(1, total, heads, dim, device=at.device)

    def run(name: str, dtype: Any) -> list[Any]:
        q, k, v = (x.to(dtype).requires_grad_() for x in inputs)
        out = packed_attention.KERNELS[name](q, k, v, 0.0, dim**-0.5, segments)
        (out.float() * weight).sum().backward()
        return [out.detach().float(), *(x.grad.float() for x in (q, k, v))]

    expected = run("loop", torch.float32)
    for name in ("torch_varlen", "flash_attn", "flex") if at.device == "cuda" else ("loop",):
        row: Row = {"kernel": name}
        try:
            found = run(name, torch.float32 if name == "flex" else at.dtype)
            names = ("out", "dq", "dk", "dv")
            errors = [float((a - b).norm() / b.norm()) for a, b in zip(found, expected, strict=True)]
            row |= dict(zip(names, errors, strict=True)) | {"right": max(errors) < 0.02}
        except Exception as e:  # noqa: BLE001 - a kernel that is not installed, or fails: that is the answer
            row["error"] = f"{type(e).__name__}: {str(e)[:200]}"
        yield row
    frontend = Frontend([0.0] * 560, [1.0] * 560, FRONTEND_CONF)
    waves = 0.1 * torch.randn(2, 48_000)
    there, here = (frontend(x, [48_000, 30_000])[0].cpu() for x in (waves.to(at.device), waves))
    difference = float((there - here).abs().max())
    yield {"kernel": "frontend", "largest difference": difference, "right": difference < 2e-3}


def engines(at: Where) -> Iterator[Row]:
    """Seconds of a step and the card's share of it: bare, ZeRO-2, ZeRO-3; as shipped and as it was."""
    from pipeline.train.engine import release

    plans = [("bare", True, False), ("zero2", True, False), ("zero3", True, False)]
    plans += [("zero2", True, True), ("zero3", True, True), ("zero3", False, True)]
    for engine_name, own_relus, timer in plans:
        b = at.bench()
        if not own_relus:
            _share_relu(b.model)
        batch, _ = b.batch(b.positions[1])
        engine = None
        if engine_name == "bare":
            step = stage_step(b, 4, lambda b=b, batch=batch: b.model(**batch).loss)
        else:
            engine, step = engine_step(b, batch, int(engine_name[-1]), timer)
        seconds, busy = _busy(at, step)
        yield {
            "engine": engine_name, "own ReLUs": own_relus, "DeepSpeed's timer": timer, "seconds": seconds,
            "card busy": busy, "share": busy / seconds if busy is not None else None,
        }  # fmt: skip
        if engine is not None:
            release(engine)
        del engine, step, batch
        b.model = None
        b.forget()


def memory(at: Where) -> Iterator[Row]:
    """GiB and seconds of a step by checkpointing and LoRA's dropout, beside preflight's estimate."""
    b, needs, limit = at.bench(), Needs(at.small), card_gib()
    for name in NAMES:
        for dropout in (None, 0.0):
            case = Case(4, b.positions[1], name, dropout)
            needed = needs.gib(case, b.samples(case.positions))
            row: Row = {"case": case.name, "estimated GiB": needed}
            if limit is not None and needed > limit:
                yield row | {"not run": f"needs more than the card's {limit:.1f} GiB"}
                continue
            found = b.case(case.name, lambda case=case: ours(b, case))
            yield row | (found or {"error": b.rows[-1]["error"]})


def syncs(at: Where) -> Iterator[Row]:
    """Places in forward, backward and update where the host waits for the device."""
    import torch

    b = at.bench()
    batch, _ = b.batch(b.positions[0])
    step = stage_step(b, 4, lambda: b.model(**batch).loss)
    step()
    at.wait()
    on_gpu = at.device == "cuda"
    if on_gpu:
        torch.cuda.set_sync_debug_mode("warn")
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        step()
    if on_gpu:
        torch.cuda.set_sync_debug_mode("default")
    places = [f"{w.filename.split('site-packages/')[-1]}:{w.lineno}" for w in seen if "synchroniz" in str(w.message)]
    yield {"waits": len(places), "places": places}


def top(at: Where) -> Iterator[Row]:
    """The 30 costliest kernels of a step."""
    from torch.profiler import ProfilerActivity, profile

    b = at.bench()
    batch, _ = b.batch(b.positions[1])
    step = stage_step(b, 4, lambda: b.model(**batch).loss)
    step()
    at.wait()
    on_gpu = at.device == "cuda"
    with profile(activities=[ProfilerActivity.CUDA if on_gpu else ProfilerActivity.CPU]) as profiled:
        step()
        at.wait()

    def cost(event: Any) -> float:
        return float(event.self_device_time_total if on_gpu else event.self_cpu_time_total)

    events = sorted(profiled.key_averages(), key=cost, reverse=True)
    total = sum(map(cost, events))
    for event in events[:30]:
        yield {"kernel": event.key[:120], "calls": event.count, "ms": cost(event) / 1e3, "share": cost(event) / total}


def shapes(at: Where) -> Iterator[Row]:
    """A micro-batch of a new shape against the same again, and memory that grows outside torch's allocator."""
    import torch

    from benchmarks.micro_batches import clips, full, micro_batch

    b = at.bench()
    b.model.trainable({"encoder", "lora", "audio_projector", "speaker_projector"})
    b.model.train()
    draw = random.Random(0)
    first: int | None = None
    times: dict[str, list[float]] = {"new": [], "again": []}
    outside = 0
    for _ in range(5 if at.small else 120):
        samples = full(b.positions[0], clips(40, seed=draw.randrange(10**6), scale=0.02 if at.small else 1.0))
        batch = micro_batch(samples, b.model.llm.config.vocab_size, b.model.config.speaker_dim, at.device, pad=False)
        for taken in times.values():
            at.wait()
            began = time.perf_counter()
            b.model(**batch).loss.backward()
            at.wait()
            taken.append(time.perf_counter() - began)
            b.model.zero_grad(set_to_none=True)
        if at.device == "cuda":
            free, total = torch.cuda.mem_get_info()
            outside = total - free - torch.cuda.memory_reserved()
            first = outside if first is None else first
    new, again = (sorted(taken)[len(taken) // 2] for taken in times.values())
    row: Row = {"a new shape, s": new, "the same again, s": again, "shapes": len(times["new"])}
    if at.device == "cuda":
        row["MiB outside the allocator"] = (outside - (first or 0)) / 2**20
        row["cuFFT plans"] = torch.backends.cuda.cufft_plan_cache.size
    yield row


ASKED: dict[str, Callable[[Where], Iterator[Row]]] = {
    "kernels": kernels,
    "engines": engines,
    "memory": memory,
    "syncs": syncs,
    "top": top,
    "shapes": shapes,
    "options": options,
}


def _share_relu(model: Any) -> None:
    """One activation object in all blocks, as FunASR builds them: DeepSpeed hooks it once for each."""
    import torch

    shared = torch.nn.ReLU()
    for module in model.encoder.modules():
        if isinstance(getattr(module, "activation", None), torch.nn.ReLU):
            module.activation = shared


def _busy(at: Where, step: Callable[[], None]) -> tuple[float, float | None]:
    """Return the wall seconds of a step, and those in which the card ran a kernel; None on a CPU."""
    step()
    step()
    at.wait()
    began = time.perf_counter()
    step()
    at.wait()
    wall = time.perf_counter() - began
    if at.device != "cuda":
        return wall, None
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CUDA]) as profiled:
        step()
        at.wait()
    return wall, sum(e.self_device_time_total for e in profiled.key_averages()) / 1e6
