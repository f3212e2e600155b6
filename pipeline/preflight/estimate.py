"""The estimate: memory, work and time of a recipe in one record, and as text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from pipeline.cards import Card
from pipeline.flops import Flops, Load, Sizes, count
from pipeline.preflight.advice import ZERO_STAGES, Choice, checkpointings, ds_config_of
from pipeline.preflight.host import HostSeconds
from pipeline.preflight.memory import GIB, Memory, activations, estimate
from pipeline.preflight.workload import Work
from pipeline.recipe.deepspeed import dtype_name, zero_stage
from pipeline.recipe.schema import Recipe
from pipeline.stages import Checkpointing, module_of, stage_of
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

    parameters: Mapping[str, dict[str, int]]  # module → all, trained, bytes
    memory: Memory
    memory_at: Load  # the micro-batch that needs most
    fits: bool | None
    model_tflop: float  # a global step
    hardware_tflop: float
    by_module: Mapping[str, float]  # TFLOP of the model
    step_seconds: float | None = None
    compute_seconds: float | None = None  # of the busiest rank
    gather_seconds: float | None = None  # of parameters and gradients, if nothing overlapped
    host_seconds: float | None = None  # of a rank's main thread, as on this machine
    bound: str | None = None  # by which of the three
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
    choices: Sequence[Choice] = ()
    advice: Sequence[str] = ()  # lines about them
    checks: Sequence[dict[str, str]] = ()
    run: dict[str, Any] | None = field(default=None)

    def json(self) -> dict[str, Any]:
        """Return plain data."""
        out = asdict(self)
        memory = self.estimate.memory
        out["estimate"]["memory"] |= {"states": memory.states, "device": memory.device}
        return out


@dataclass(frozen=True)
class Times:
    """Seconds of a step, if each of the three had to wait for nothing; they overlap."""

    compute: float  # of the busiest rank's card
    communicate: float
    host: float | None  # of its main thread; None: not measured

    @property
    def step(self) -> float:
        """The longest of them."""
        return max(self.compute, self.communicate, self.host or 0.0)

    @property
    def bound(self) -> str:
        """Which one it is."""
        if self.host is not None and self.host == self.step:
            return "the host"
        return "computing" if self.compute == self.step else "communicating"


def make_estimate(
    recipe: Recipe,
    ds_config: Mapping[str, Any],
    model: Any,
    work: Work,
    world: World,
    steps_to_go: int,
    host: HostSeconds | None = None,
) -> Estimate:
    """Memory and time of this work in this world."""
    dtype = dtype_name(dict(ds_config))
    on_gpu = world.card is not None
    memories = [estimate(model, ds_config, dtype, world.size, load, on_gpu) for load in work.largest]
    worst = max(range(len(memories)), key=lambda i: memories[i].device)
    total = flops_of_step(recipe, model, work, recipe.model.activation_checkpointing)
    plain = Estimate(
        parameters=parameters(model),
        memory=memories[worst],
        memory_at=work.largest[worst],
        fits=fits(memories[worst], world),
        model_tflop=total.model / 1e12,
        hardware_tflop=total.hardware / 1e12,
        by_module={m: n / 1e12 for m, n in total.by_module.items()},
    )
    if world.card is None:
        return plain
    times = times_of_step(plain.parameters, ds_config, recipe.model.activation_checkpointing, total, work, world, host)
    hours = times.step * steps_to_go / 3600
    return replace(
        plain,
        step_seconds=times.step,
        compute_seconds=times.compute,
        gather_seconds=times.communicate,
        host_seconds=times.host,
        bound=times.bound,
        mfu=mfu(total, times, world),
        audio_hours_per_hour=work.audio_seconds_per_step / times.step,
        tokens_per_second=work.positions_per_step / times.step,
        hours_to_go=hours,
        gpu_hours=hours * world.size,
    )


def make_choices(
    recipe: Recipe, model: Any, work: Work, world: World, at: Load, host: HostSeconds | None = None
) -> list[Choice]:
    """Memory and time of every ZeRO stage with every checkpointing, at the micro-batch that needs most memory now."""
    assert world.card is not None
    before, counts, out = model.config.activation_checkpointing, parameters(model), []
    configs = {zero: ds_config_of(recipe, zero, world.size) for zero in ZERO_STAGES}
    for name, setting in checkpointings(recipe).items():
        model.set_checkpointing(setting)
        total = flops_of_step(recipe, model, work, setting)
        added = {zero3: activations(model, at, zero3) for zero3 in (True, False)}
        for zero, ds_config in configs.items():
            dtype = dtype_name(ds_config)
            memory = estimate(model, ds_config, dtype, world.size, at, on_gpu=True, added=added[zero == 3])
            times = times_of_step(counts, ds_config, setting, total, work, world, host)
            out.append(
                Choice(
                    zero, name, memory.device / GIB, bool(fits(memory, world)), times.step, times.bound,
                    mfu(total, times, world),
                )
            )  # fmt: skip
    model.set_checkpointing(before)
    return sorted(out, key=lambda c: -c.zero)


def fits(memory: Memory, world: World) -> bool | None:
    """Return whether a rank's memory is enough; None: no card is named."""
    return memory.device <= world.card.memory_gib * GIB if world.card else None


def mfu(total: Flops, times: Times, world: World) -> float:
    """Return the share of all cards' peak that the model's operations reach."""
    assert world.card is not None
    return total.model / (times.step * world.card.bf16_tflops * 1e12 * world.size)


def flops_of_step(recipe: Recipe, model: Any, work: Work, checkpointing: Checkpointing) -> Flops:
    """Return the operations of a global step, on the average of the micro-batches looked at."""
    sizes, trains = Sizes.of(model), stage_of(recipe.stage, recipe.model.base).trains
    costs = [count(sizes, load, trains, checkpointing) for load in work.loads]
    share = work.micro_batches / len(costs)
    return Flops(
        sum(c.model for c in costs) * share,
        sum(c.hardware for c in costs) * share,
        {m: sum(c.by_module[m] for c in costs) * share for m in costs[0].by_module},
        sum(c.float8 for c in costs) * share,
    )


def times_of_step(
    parameters: Mapping[str, dict[str, int]],
    ds_config: Mapping[str, Any],
    checkpointing: Checkpointing,
    total: Flops,
    work: Work,
    world: World,
    host: HostSeconds | None,
) -> Times:
    """Return the times of a rank that runs ceil(M / N) micro-batches a step.

    ZeRO-3 gathers every parameter once forward and once backward in each; a rank receives (N - 1) / N of them. All
    stages sum fp32 gradients: 0 and 1 once a step, 2 and 3 in every micro-batch; 1 and 2 gather what was updated.
    Between nodes the ring enters a node once, and its cards pass on inside it: what bounds is the slower of a card's
    link and a node's network.
    """
    assert world.card is not None
    rounds, zero = -(-work.micro_batches // world.size), zero_stage(dict(ds_config))
    at_bf16 = total.hardware - total.float8 / 2
    compute = rounds * at_bf16 / work.micro_batches / (world.card.bf16_tflops * 1e12 * world.efficiency)
    width = 2 if dtype_name(dict(ds_config)) == "bfloat16" else 4
    trained, held = (sum(p[which] for p in parameters.values()) for which in ("trained", "bytes"))
    received = 4 * trained * {0: 2, 1: 1}.get(zero, rounds)
    received += rounds * 2 * held if zero == 3 else width * trained if zero else 0
    link = min([world.card.link_gb_s / 2] + [world.network_gb_s] * (world.nodes > 1))
    communicate = received * (world.size - 1) / world.size / (link * WIRE * 1e9)
    return Times(compute, communicate, host.step(zero, checkpointing, rounds) if host else None)


def parameters(model: Any) -> dict[str, dict[str, int]]:
    """Module → all its parameters, how many are trained, and their bytes."""
    out: dict[str, dict[str, int]] = {}
    for name, p in model.named_parameters():
        of = out.setdefault(module_of(name), {"all": 0, "trained": 0, "bytes": 0})
        of["all"] += p.numel()
        of["bytes"] += p.numel() * p.element_size()
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
    lines += [*_times(p), *p.advice, *_checks(p), *_run(p)]
    return "\n".join(lines)


def _times(p: Preflight) -> list[str]:
    e = p.estimate
    if e.step_seconds is None or e.hours_to_go is None:
        return ["  no times: no card is named (--card)"]
    host = f", host {e.host_seconds:.2f} s as on this machine" if e.host_seconds is not None else ""
    return [
        f"  {'step':24}{e.step_seconds:.2f} s, bound by {e.bound} "
        f"(computing {e.compute_seconds:.2f} s, communicating {e.gather_seconds:.2f} s{host})",
        f"  {'MFU':24}{e.mfu:.1%}, computing at {p.world['efficiency']:.0%} of the peak, {p.world['efficiency_from']}",
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
