"""Which ZeRO stage and which checkpointing are the fastest that fit: a table for a card and a world."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from pipeline.recipe.deepspeed import resolve_deepspeed, zero_stage
from pipeline.recipe.schema import Recipe
from pipeline.stages import Checkpointing
from shards.errors import ConfigError

ZERO_STAGES = (3, 2)  # 1 is refused with bf16: DeepSpeed then has another optimizer
CHECKPOINTINGS = {
    "all": Checkpointing(encoder=True, llm_every=1),
    "encoder, every 2nd layer": Checkpointing(encoder=True, llm_every=2),
    "encoder alone": Checkpointing(encoder=True, llm_every=0),
    "none": Checkpointing(encoder=False, llm_every=0),
}
NOISE = 0.02  # a choice that is not faster by this share is not worth a change


@dataclass(frozen=True)
class Choice:
    """One row."""

    zero: int
    checkpointing: str  # a key of CHECKPOINTINGS, or "as in the recipe"
    gib: float
    fits: bool
    seconds: float  # of a step
    bound: str  # computing, communicating, the host
    mfu: float

    def overrides(self, recipe: Recipe) -> dict[str, Any]:
        """Return the recipe's settings that make this choice."""
        chosen = CHECKPOINTINGS.get(self.checkpointing, recipe.model.activation_checkpointing)
        return {
            "deepspeed": ds_config_file(recipe, self.zero),
            "model": {"activation_checkpointing": asdict(chosen)},
        }


def ds_config_file(recipe: Recipe, zero: int) -> str:
    """Return the recipe's DeepSpeed file if it is of this ZeRO stage, else the shipped one."""
    own = zero_stage(resolve_deepspeed(recipe, 1)) == zero
    return recipe.deepspeed if own else f"ds_configs/zero{zero}.json"


def ds_config_of(recipe: Recipe, zero: int, world: int) -> dict[str, Any]:
    """Return the resolved DeepSpeed configuration of :func:`ds_config_file`."""
    return resolve_deepspeed(replace(recipe, deepspeed=ds_config_file(recipe, zero)), world)


def checkpointings(recipe: Recipe) -> dict[str, Checkpointing]:
    """Return the settings to compare: those of the table, and the recipe's own if it is none of them."""
    own = recipe.model.activation_checkpointing
    return CHECKPOINTINGS | ({} if own in CHECKPOINTINGS.values() else {"as in the recipe": own})


def own_choice(choices: Sequence[Choice], recipe: Recipe) -> Choice:
    """Return the row that the recipe has now."""
    zero = zero_stage(resolve_deepspeed(recipe, 1))
    settings = checkpointings(recipe)
    own = recipe.model.activation_checkpointing
    return next(c for c in choices if c.zero == zero and settings[c.checkpointing] == own)


def fastest(choices: Sequence[Choice], own: Choice) -> Choice | None:
    """Return the fastest choice that fits; the recipe's own, then ZeRO-3, if they are as fast. None: nothing fits."""
    fitting = [c for c in choices if c.fits]
    if not fitting:
        return None
    least = min(c.seconds for c in fitting)
    near = [c for c in fitting if c.seconds <= least * (1 + NOISE)]
    return min(near, key=lambda c: (c != own, -c.zero, c.gib))


def lines(choices: Sequence[Choice], own: Choice, best: Choice | None, recipe: Recipe) -> list[str]:
    """Format as text."""
    out = ["", "choices: ZeRO stage × activation checkpointing (* the recipe's, > the fastest that fits)"]
    out += [f"    {'ZeRO':6}{'checkpointing':26}{'GiB':>8}{'step':>10}{'MFU':>8}  bound by"]
    for c in choices:
        mark = ("*" if c == own else " ") + (">" if c == best else " ")
        fit = "" if c.fits else ", DOES NOT FIT"
        out += [f"  {mark}{c.zero:<6}{c.checkpointing:26}{c.gib:8.1f}{c.seconds:8.2f} s{c.mfu:8.1%}  {c.bound}{fit}"]
    if best is None:
        return [*out, "  none fits: lower data.max_positions, or use ds_configs/zero3_offload.json"]
    if best == own:
        return [*out, "  the recipe's choice is the fastest that fits"]
    third = min((c for c in choices if c.fits and c.zero == 3), key=lambda c: c.seconds, default=None)
    if own.fits:
        faster = own.seconds / best.seconds
        out += [f"  ZeRO-{best.zero} with checkpointing of {best.checkpointing} is {faster:.2f} times as fast"]
    if third is not None and best.zero != 3:
        longer = third.seconds / best.seconds
        out += [f"  ZeRO-3 at its fastest ({third.checkpointing}) takes {longer:.2f} times as long"]
    return [*out, f"  to take it: {' '.join(as_arguments(best.overrides(recipe)))}"]


def as_arguments(settings: Mapping[str, Any], prefix: str = "") -> list[str]:
    """Return settings as overrides of a command line."""
    out = []
    for name, value in settings.items():
        if isinstance(value, Mapping):
            out += as_arguments(value, f"{prefix}{name}.")
        else:
            out.append(f"{prefix}{name}={str(value).lower() if isinstance(value, bool) else value}")
    return out


def apply(path: Path, recipe_file: Path, settings: Mapping[str, Any], comment: str) -> None:
    """Write a recipe that extends another by these settings.

    Raises:
        ConfigError: the file exists.
    """
    if path.exists():
        raise ConfigError(f"{path} exists: name another file for --apply")
    base = os.path.relpath(recipe_file.resolve(), path.resolve().parent)
    text = OmegaConf.to_yaml(OmegaConf.create({"extends": base, **settings}))
    path.write_text(f"# {comment}\n{text}", encoding="utf-8")
