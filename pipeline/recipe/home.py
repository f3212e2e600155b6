"""``~`` at the beginning of a recipe's paths, which a shell does not expand in a file or in ``output=~/run``."""

from __future__ import annotations

import os
from operator import attrgetter

from pipeline.recipe.schema import Recipe
from shards.errors import ConfigError

PATHS = (
    "output",
    "root",
    "init_from",
    "deepspeed",
    "model.encoder.checkpoint",
    "model.llm.checkpoint",
    "data.augment.noise",
    "data.lengths_cache",
    "data.shard_cache",
    "trainer.upload",
)
PATHS_OF_DATASETS = ("path", "exclude")


def expand_home(recipe: Recipe, where: str) -> None:
    """Replace a leading ``~`` or ``~user`` in every path. In place.

    Raises:
        ConfigError: there is no such user, or no home folder.
    """
    owners = [(*_owner(recipe, dotted), dotted) for dotted in PATHS]
    for name in ("train", "validation"):
        for i, dataset in enumerate(getattr(recipe.data, name)):
            owners += [(dataset, leaf, f"data.{name}[{i}].{leaf}") for leaf in PATHS_OF_DATASETS]
    for owner, leaf, dotted in owners:
        value = getattr(owner, leaf)
        if value is not None:
            setattr(owner, leaf, home_expanded(value, f"{where}: {dotted}"))


def home_expanded(path: str, where: str) -> str:
    """Return a path with a leading ``~`` or ``~user`` replaced.

    Raises:
        ConfigError: there is no such user, or no home folder; the message begins with ``where``.
    """
    expanded = os.path.expanduser(path)  # noqa: PTH111 - pathlib changes s3:// and drops a trailing slash
    if expanded.startswith("~"):
        raise ConfigError(f"{where} is {path!r}: no home folder of that name; write ./{path} for a file of this name")
    return expanded


def _owner(recipe: Recipe, dotted: str) -> tuple[object, str]:
    parent, _, leaf = dotted.rpartition(".")
    return (attrgetter(parent)(recipe) if parent else recipe), leaf
