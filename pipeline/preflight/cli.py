"""`speakerlm-preflight`: memory, time and requirements of a recipe on given cards, and checks of this machine.

    speakerlm-preflight launch/recipes/speakerlm-7b/stage4.yaml root=s3://bucket --card H100-80 --gpus 4
    speakerlm-preflight launch/recipes/speakerlm-7b/stage4.yaml --positions 6000 --card A800-80 --gpus 4
    speakerlm-preflight launch/recipes/tiny/stage4.yaml --run 2

With a dataset, figures come from the recipe's real plan; with --positions from sizes alone, and neither data nor
weights need be on this machine. --run executes the micro-batch that needs most memory here and shows measured values
next to the estimate. Exit codes: 0; 1: an error, a failed check, or it does not fit.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
from pathlib import Path
from typing import Any

from shards.arguments import natural, positive
from shards.commands import outcome
from shards.commands.parser import Parser
from shards.workers import progress

ASSUMED_EFFICIENCY = 0.45


def parse(arguments: list[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = Parser(
        prog="speakerlm-preflight", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("recipe", type=Path)
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="settings that win over the recipe's")
    world = parser.add_argument_group("where it will run")
    world.add_argument("--card", help="H100-80, A800-80, H200 …; default: the card of this machine, if any")
    world.add_argument("--gpus", type=positive, default=1, help="ranks per node")
    world.add_argument("--nodes", type=positive, default=1)
    world.add_argument(
        "--network-gb-s", type=float, default=100.0, metavar="GB/S",
        help="network of a node, one direction, in gigabytes: 8 cards with 100 Gbit/s each are 100",
    )  # fmt: skip
    world.add_argument(
        "--efficiency", type=float, metavar="SHARE",
        help=f"share of the peak that computing reaches; a measured HFU, else {ASSUMED_EFFICIENCY} is assumed",
    )  # fmt: skip
    work = parser.add_argument_group("what it will compute")
    work.add_argument("--plan-steps", type=positive, default=200, metavar="N", help="steps of the plan to look at")
    work.add_argument(
        "--positions",
        type=positive,
        metavar="N",
        help="no dataset: micro-batches of N LLM positions, of equal clips",
    )
    work.add_argument("--clip-seconds", type=float, default=45.0, help="of those clips")
    work.add_argument("--tokens-per-second", type=float, default=5.0, help="target tokens of those clips")
    work.add_argument("--registered", type=natural, default=17, help="speakers registered with each of those clips")
    parser.add_argument(
        "--no-host", action="store_true", help="do not measure the host's time of a step on this machine"
    )
    parser.add_argument(
        "--no-choices",
        action="store_true",
        help="do not compare ZeRO stages, checkpointings and options, which takes two minutes",
    )
    parser.add_argument(
        "--apply", type=Path, metavar="FILE",
        help="write a recipe that extends this one by the fastest choice that fits; needs --card",
    )  # fmt: skip
    parser.add_argument("--no-checks", action="store_true", help="look at no path, package or device")
    parser.add_argument("--run", type=positive, metavar="RANKS", help="execute the largest micro-batch on this many")
    parser.add_argument("--json", action="store_true", help="one JSON object instead of the table")
    parser.add_argument("--result", type=Path, help=argparse.SUPPRESS)  # set in a rank that --run has started
    return parser.parse_intermixed_args(arguments)


def main(arguments: list[str] | None = None) -> int:
    """Exit code."""
    args = parse(arguments)
    return outcome("speakerlm-preflight", lambda: _run(args))


def _run(args: argparse.Namespace) -> int:
    if args.result:
        _rank(args)
        return 0
    with contextlib.redirect_stdout(sys.stderr):  # DeepSpeed logs to stdout, which is the answer's alone
        answer = preflight(args)
    from pipeline.preflight.estimate import text

    print(json.dumps(answer.json(), ensure_ascii=False) if args.json else text(answer))
    failed = any(c["verdict"] == "FAIL" for c in answer.checks)
    return int(failed or answer.estimate.fits is False)


def preflight(args: argparse.Namespace) -> Any:
    """The whole answer, a :class:`pipeline.preflight.estimate.Preflight`.

    Raises:
        SpeakerLMError: no answer can be given; says why.
    """
    from pipeline.recipe.load import load_recipe
    from pipeline.stages import Base, check_speech, stage_of

    recipe = load_recipe(args.recipe, args.overrides)
    check_speech(recipe.stage, str(args.recipe))  # errors so far need not wait for torch
    from pipeline.preflight.checks import all_checks
    from pipeline.preflight.estimate import Preflight, make_estimate
    from pipeline.preflight.host import host_seconds
    from pipeline.preflight.shapes import empty_model
    from pipeline.recipe.deepspeed import dtype_name, resolve_deepspeed

    world = _world(args)
    ds_config = resolve_deepspeed(recipe, world.size)
    model, shapes = empty_model(recipe.model, dtype_name(ds_config))
    model.trainable(stage_of(recipe.stage, recipe.model.base).trains)
    model.train()
    tokenizer = None if args.positions else _tokenizer(recipe)
    work = _work(args, recipe, tokenizer)
    done = _steps_done(recipe)
    max_steps = recipe.trainer.max_steps
    host = None
    if world.card is not None and not args.no_host and recipe.model.base == Base.SPEAKERLM:
        host = host_seconds([str(args.recipe), *args.overrides], world.size)
    estimate = make_estimate(recipe, ds_config, model, work, world, max_steps - done, host)
    choices, advice = _choices(args, recipe, ds_config, model, work, world, estimate, host)
    checks = []
    if not args.no_checks:
        trained = sum(p["trained"] for p in estimate.parameters.values())
        checks = [c.row() for c in all_checks(recipe, trained, tokenizer and tokenizer.hash, args.gpus)]
    run = None
    if args.run:
        from pipeline.preflight.rehearse import start_ranks

        found = start_ranks("pipeline.preflight", _for_a_rank(args), args.run)
        run = _beside(estimate, found, recipe, model, args.run)
    hours = work.audio_seconds_per_step / 3600 * (max_steps - done)
    summary = {
        name: getattr(work, name)
        for name in ("source", "micro_batches", "positions_per_step", "audio_seconds_per_step", "targets_per_step")
    } | {
        "fill": work.fill,
        "padding": work.padding,
        "hours": work.hours,
        "max_steps": max_steps,
        "steps_to_go": max_steps - done,
        "epochs": hours / work.hours if work.hours else None,
    }
    card = world.card
    where = {
        "size": world.size, "gpus": world.gpus, "nodes": world.nodes, "card": card.name if card else "CPU",
        "memory_gib": card.memory_gib if card else None, "efficiency": world.efficiency,
        "efficiency_from": "as given" if args.efficiency else "assumed, not measured",
    }  # fmt: skip
    return Preflight(recipe.name, recipe.stage, where, shapes, summary, estimate, choices, advice, checks, run)


def _choices(
    args: argparse.Namespace, recipe: Any, ds_config: Any, model: Any, work: Any, world: Any, estimate: Any, host: Any
) -> tuple[list[Any], list[str]]:
    """Return the table of choices and lines about it; empty without a card. Write the fastest, if that is asked for.

    Raises:
        ConfigError: no choice can be written.
    """
    from pipeline.preflight import advice, options
    from pipeline.preflight.estimate import make_choices
    from pipeline.stages import Base
    from shards.errors import ConfigError

    if world.card is None or args.no_choices:
        if args.apply:
            raise ConfigError("--apply writes one of the choices: name a card, and omit --no-choices")
        return [], []
    choices = make_choices(recipe, model, work, world, estimate.memory_at, host)
    own = advice.own_choice(choices, recipe)
    best = advice.fastest(choices, own)
    lines = advice.lines(choices, own, best, recipe)
    rounds = -(-work.micro_batches // world.size)
    if recipe.model.base == Base.SPEAKERLM:  # others have no options
        lines += options.lines(options.options(recipe, ds_config, estimate.memory_at, world, rounds))
    if args.apply:
        if best is None:
            raise ConfigError(f"nothing fits into {world.card.name}: {args.apply} is not written")
        where = f"the fastest that fits on {world.size} × {world.card.name}, as estimated by speakerlm-preflight"
        advice.apply(args.apply, args.recipe, best.overrides(recipe), where)
        lines.append(f"  written to {args.apply}")
    return choices, lines


def _for_a_rank(args: argparse.Namespace) -> list[str]:
    """The arguments that decide what a rank executes."""
    names = ("plan_steps", "positions", "clip_seconds", "tokens_per_second", "registered")
    values = [(f"--{name.replace('_', '-')}", getattr(args, name)) for name in names]
    given = [text for name, value in values if value is not None for text in (name, str(value))]
    return [str(args.recipe), *args.overrides, *given]


def _world(args: argparse.Namespace) -> Any:
    from pipeline.cards import card, this_card
    from pipeline.preflight.estimate import World

    found = card(args.card) if args.card else this_card()
    return World(args.gpus, args.nodes, found, args.network_gb_s, args.efficiency or ASSUMED_EFFICIENCY)


def _tokenizer(recipe: Any) -> Any:
    from pipeline.model.build import load_tokenizer

    return load_tokenizer(recipe.model)


def _work(args: argparse.Namespace, recipe: Any, tokenizer: Any) -> Any:
    from pipeline.preflight.workload import Typical, work_from_plan, work_from_sizes

    if args.positions:
        typical = Typical(args.positions, args.clip_seconds, args.tokens_per_second, registered=args.registered)
        return work_from_sizes(recipe, typical)
    with progress(total=args.plan_steps, desc="planning", unit="step", delay=2, leave=False) as bar:
        return work_from_plan(recipe, tokenizer, args.plan_steps, lambda _: bar.update())


def _steps_done(recipe: Any) -> int:
    from pipeline.checkpoint.format import committed_names

    names = committed_names(Path(recipe.output) / "checkpoints")
    return min(recipe.trainer.max_steps, int(names[-1].removeprefix("step-"))) if names else 0


def _rank(args: argparse.Namespace) -> None:
    """Run one rank of --run: the same recipe and workload, then the micro-batch itself."""
    from pipeline.preflight.memory import activations
    from pipeline.preflight.rehearse import measure
    from pipeline.preflight.shapes import empty_model
    from pipeline.recipe.deepspeed import dtype_name, resolve_deepspeed
    from pipeline.recipe.load import load_recipe
    from pipeline.stages import check_speech, stage_of

    recipe = load_recipe(args.recipe, args.overrides)
    check_speech(recipe.stage, str(args.recipe))
    tokenizer = None if args.positions else _tokenizer(recipe)
    work = _work(args, recipe, tokenizer)
    model, _ = empty_model(recipe.model, dtype_name(resolve_deepspeed(recipe, 1)))
    model.trainable(stage_of(recipe.stage, recipe.model.base).trains)
    model.train()
    sizes = [activations(model, load, zero3=True) for load in work.largest]
    worst = sizes.index(max(sizes))
    batch = None
    if work.planned:
        batch = _load(recipe, tokenizer, work.planned[worst])
    measure(recipe, batch, work.largest[worst], args.result)


def _load(recipe: Any, tokenizer: Any, planned: Any) -> dict[str, Any]:
    """A planned micro-batch, read and collated, on the device of this rank."""
    import os

    import torch

    from pipeline.data.loader import SampleReader
    from shards.dataset.dataset import open_dataset

    datasets = [open_dataset(share.path, share.extractor) for share in recipe.data.train]
    loaded = SampleReader(datasets, tokenizer, recipe.model.stride, recipe.model.speaker_dim)[planned, None]
    if loaded.error is not None:
        raise loaded.error
    device = f"cuda:{os.environ.get('LOCAL_RANK', '0')}" if torch.cuda.is_available() else "cpu"
    assert loaded.batch is not None
    return dict(loaded.batch.to(device).model_inputs())


def _beside(estimate: Any, found: dict[str, Any], recipe: Any, model: Any, ranks: int) -> dict[str, Any]:
    """Rows (estimated, measured, unit) of a rehearsal; memory is estimated for as many ranks as ran."""
    import torch

    from pipeline.flops import Sizes, count
    from pipeline.preflight.memory import GIB
    from pipeline.preflight.memory import estimate as estimate_memory
    from pipeline.recipe.deepspeed import dtype_name, resolve_deepspeed
    from pipeline.stages import stage_of

    ds_config = resolve_deepspeed(recipe, ranks)
    load = estimate.memory_at
    on_cpu = not torch.cuda.is_available()
    memory = estimate_memory(model, ds_config, dtype_name(ds_config), ranks, load, on_gpu=False, on_cpu=on_cpu)
    trains = stage_of(recipe.stage, recipe.model.base).trains
    work = count(Sizes.of(model), load, trains, recipe.model.activation_checkpointing)
    seconds = found["step_seconds"]
    added = (memory.activations + memory.gathered) / GIB
    rows = {
        "states, GiB": (memory.states / GIB, found["states"] / GIB, "kept between steps"),
        "added by a step, GiB": (added, (found["peak"] - found["states"]) / GIB, ""),
        "peak of tensors, GiB": (memory.states / GIB + added, found["peak"] / GIB, ""),
        "taken by the process, GiB": (None, found["reserved"] / GIB, "allocator, or resident on a CPU"),
        "step, s": (None, seconds, "forward, backward, update"),
        "model TFLOP/s, a rank": (None, work.model / 1e12 / seconds, ""),
        "computed TFLOP/s, a rank": (None, work.hardware / 1e12 / seconds, ""),
    }
    return {"ranks": found["ranks"], "loss": found["loss"], "rows": rows}
