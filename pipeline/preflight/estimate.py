"""The estimate: memory, work and time of a recipe in one record, and as text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from pipeline.cards import Card
from pipeline.flops import Load, Sizes, count
from pipeline.preflight.memory import GIB, Memory, estimate
from pipeline.preflight.workload import Work
from pipeline.recipe.deepspeed import dtype_name, zero_stage
from pipeline.recipe.schema import Recipe
from pipeline.stages import STAGES, module_of
from pipeline.train.train_log import duration

WIRE = 0.7  # share of a link's data-sheet speed that collectives reach, assumed


@dataclass(frozen=True)
class World:
    """Cards, nodes and network of a planned run."""

    gpus: int  # per node
    nodes: int
    card: Card | None  # None: a CPU, or a card that is not listed
    network_gb_s: float  # of a node, one direction
    efficiency: float  # share of the card's peak that hardware operations reach: measured by a benchmark, or assumed

    @property
    def size(self) -> int:
        """Ranks."""
        return self.gpus * self.nodes


@dataclass(frozen=True)
class Estimate:
    """Expected memory, work and time; times only if the card is known."""

    parameters: Mapping[str, dict[str, int]]  # module → all, trained
    memory: Memory
    memory_at: Load  # the micro-batch that needs most
    fits: bool | None
    model_tflop: float  # a global step
    hardware_tflop: float
    by_module: Mapping[str, float]  # TFLOP of the model
    step_seconds: float | None = None
    compute_seconds: float | None = None  # of the busiest rank
    gather_seconds: float | None = None  # of ZeRO-3's parameters, if nothing overlapped
    mfu: float | None = None
    audio_hours_per_hour: float | None = None
    tokens_per_second: float | None = None
    hours_to_go: float | None = None
    gpu_hours: float | None = None


@dataclass(frozen=True)
class Preflight:
    """The whole answer."""

    name: str
    stage: int
    world: dict[str, Any]
    shapes: Sequence[str]
    work: dict[str, Any]
    estimate: Estimate
    checks: Sequence[dict[str, str]] = ()
    run: dict[str, Any] | None = field(default=None)

    def json(self) -> dict[str, Any]:
        """Return plain data."""
        out = asdict(self)
        memory = self.estimate.memory
        out["estimate"]["memory"] |= {"states": memory.states, "device": memory.device}
        return out


def make_estimate(
    recipe: Recipe, ds_config: Mapping[str, Any], model: Any, work: Work, world: World, steps_to_go: int
) -> Estimate:
    """Memory and time of this work in this world."""
    dtype = dtype_name(dict(ds_config))
    trains = STAGES[recipe.stage].trains
    on_gpu = world.card is not None
    memories = [estimate(model, ds_config, dtype, world.size, load, on_gpu) for load in work.largest]
    worst = max(range(len(memories)), key=lambda i: memories[i].device)
    sizes = Sizes.of(model)
    costs = [count(sizes, load, trains, recipe.model.activation_checkpointing) for load in work.loads]
    share = work.micro_batches / len(costs)
    plain = Estimate(
        parameters=parameters(model),
        memory=memories[worst],
        memory_at=work.largest[worst],
        fits=memories[worst].device <= world.card.memory_gib * GIB if world.card else None,
        model_tflop=sum(c.model for c in costs) * share / 1e12,
        hardware_tflop=sum(c.hardware for c in costs) * share / 1e12,
        by_module={m: sum(c.by_module[m] for c in costs) * share / 1e12 for m in costs[0].by_module},
    )
    return _timed(plain, ds_config, dtype, work, world, steps_to_go) if world.card else plain


def _timed(
    e: Estimate, ds_config: Mapping[str, Any], dtype: str, work: Work, world: World, steps_to_go: int
) -> Estimate:
    """With times: the longer of computing and gathering, which DeepSpeed overlaps.

    A rank runs ceil(M / N) micro-batches a step. ZeRO-3 gathers every parameter once forward and once backward in
    each; a rank receives (N - 1) / N of them. Between nodes the ring enters a node once, and its cards pass on inside
    it: what bounds is the slower of a card's link and a node's network.
    """
    assert world.card is not None
    rounds = -(-work.micro_batches // world.size)
    peak = world.card.bf16_tflops * 1e12
    compute = rounds * e.hardware_tflop * 1e12 / work.micro_batches / (peak * world.efficiency)
    gathered = 0.0
    if zero_stage(dict(ds_config)) == 3 and world.size > 1:
        width = 2 if dtype == "bfloat16" else 4
        total = width * sum(p["all"] for p in e.parameters.values()) * (world.size - 1) / world.size
        link = min([world.card.link_gb_s / 2] + [world.network_gb_s] * (world.nodes > 1))
        gathered = rounds * 2 * total / (link * WIRE * 1e9)
    step = max(compute, gathered)
    hours = step * steps_to_go / 3600
    return Estimate(
        **{name: getattr(e, name) for name in (
            "parameters", "memory", "memory_at", "fits", "model_tflop", "hardware_tflop", "by_module"
        )},
        step_seconds=step,
        compute_seconds=compute,
        gather_seconds=gathered,
        mfu=e.model_tflop * 1e12 / (step * peak * world.size),
        audio_hours_per_hour=work.audio_seconds_per_step / step,
        tokens_per_second=work.positions_per_step / step,
        hours_to_go=hours,
        gpu_hours=hours * world.size,
    )  # fmt: skip


def parameters(model: Any) -> dict[str, dict[str, int]]:
    """Module → all its parameters, and how many are trained."""
    out: dict[str, dict[str, int]] = {}
    for name, p in model.named_parameters():
        of = out.setdefault(module_of(name), {"all": 0, "trained": 0})
        of["all"] += p.numel()
        of["trained"] += p.numel() if p.requires_grad else 0
    return out


def text(p: Preflight) -> str:
    """Format as text."""
    e, w = p.estimate, p.work
    lines = [f"{p.name}, stage {p.stage}, on {p.world['size']} × {p.world['card']} ({p.world['nodes']} nodes)"]
    lines += [f"  {s}" for s in p.shapes]
    lines += ["", "work", f"  from {w['source']}"]
    lines += [
        f"  {'a global step':24}{w['positions_per_step']:,.0f} positions, {w['targets_per_step']:,.0f} target tokens, "
        f"{w['audio_seconds_per_step'] / 3600:.3f} h of audio, M = {w['micro_batches']}",
        f"  {'fill, encoder padding':24}{w['fill']:.1%}, {w['padding']:.1%}",
        f"  {'steps to go':24}{w['steps_to_go']:,} of {w['max_steps']:,}"
        + (f" = {w['epochs']:.2f} epochs of {w['hours']:,.1f} h" if w["hours"] else ""),
    ]
    lines += ["", f"{'parameters':26}{'all':>16}{'trained':>16}"]
    lines += [f"  {m:24}{n['all']:>16,}{n['trained']:>16,}" for m, n in e.parameters.items()]
    lines += ["", "memory of a rank, GiB, at its largest micro-batch"]
    at = e.memory_at
    lines += [f"  ({at.positions:,} positions, {len(at.frames)} audios, {at.padded_frames:,} padded frames)"]
    rows = {n: getattr(e.memory, n) for n in ("weights", "gathered", "gradients", "optimizer", "buckets")}
    rows |= {"activations and logits": e.memory.activations, "context, fragments": e.memory.other}
    rows |= {"device": e.memory.device} | ({"host": e.memory.host} if e.memory.host else {})
    lines += [f"  {name:24}{size / GIB:>10.3f}" for name, size in rows.items()]
    if e.fits is not None:
        verdict = "fits" if e.fits else "DOES NOT FIT"
        lines += [f"  {verdict} into {p.world['memory_gib']} GiB"]
    lines += ["", "work of a global step", f"  {'model':24}{e.model_tflop:,.3f} TFLOP"]
    lines += [f"  {'computed':24}{e.hardware_tflop:,.3f} TFLOP (padding and recomputation included)"]
    lines += _times(p) + _checks(p) + _run(p)
    return "\n".join(lines)


def _times(p: Preflight) -> list[str]:
    e = p.estimate
    if e.step_seconds is None or e.hours_to_go is None:
        return ["  no times: no card is named (--card)"]
    bound = "computing" if (e.compute_seconds or 0) >= (e.gather_seconds or 0) else "gathering parameters"
    return [
        f"  {'step':24}{e.step_seconds:.2f} s, bound by {bound} "
        f"(computing {e.compute_seconds:.2f} s, gathering {e.gather_seconds:.2f} s)",
        f"  {'MFU':24}{e.mfu:.1%} at {p.world['efficiency']:.0%} of the peak, {p.world['efficiency_from']}",
        f"  {'speed':24}{e.tokens_per_second:,.0f} tokens/s, {e.audio_hours_per_hour:,.0f} audio hours per hour",
        f"  {'to go':24}{duration(e.hours_to_go * 3600)}, {e.gpu_hours:,.0f} GPU hours",
    ]


def _checks(p: Preflight) -> list[str]:
    if not p.checks:
        return []
    return ["", "checks", *(f"  {c['verdict']:5}{c['what']:18}{c['found']}" for c in p.checks)]


def _run(p: Preflight) -> list[str]:
    if p.run is None:
        return []
    lines = [
        "",
        f"run: the largest micro-batch on {p.run['ranks']} ranks",
        f"  {'':24}   estimated    measured",
    ]
    for name, (expected, found, unit) in p.run["rows"].items():
        shown = f"{expected:>12.4g}" if expected is not None else f"{'–':>12}"
        error = f"  {expected / found - 1:+.0%}" if expected is not None and found else ""
        lines += [f"  {name:24}{shown}{found:>12.4g} {unit}{error}"]
    return lines
