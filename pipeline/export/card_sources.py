"""Sources of a model's weights, for its card: ids of hubs, or names and hashes of folders. No path is printed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from pipeline.checkpoint.final_weights import DONE
from pipeline.recipe.schema import Recipe
from shards.weights.hubs import hub_name

HEX = 12  # digits of a hash that a card prints
START = "start"  # in a run's folder: what it took from another place than a run


def done_of(run: Path) -> dict[str, Any]:
    """Read a run's ``done`` marker; empty if it has none."""
    return dict(json.loads((run / DONE).read_text(encoding="utf-8"))) if (run / DONE).is_file() else {}


def base_models(first: Recipe, run: Path) -> list[str]:
    """Return the ids on hubs of what a lineage began with, without revisions.

    Args:
        first: recipe of the first known run of the lineage.
        run: its folder.
    """
    named = (
        first.init_from if _from_hub(first, run) else None,
        first.model.llm.checkpoint,
        first.model.encoder.checkpoint,
    )
    ids = [found.partition("@")[0] for name in named if name and (found := hub_name(name))]
    return list(dict.fromkeys(ids))


def checkpoint_of(recipe: Recipe, run: Path, part: str) -> str:
    """Describe the checkpoint of the ``llm`` or the ``encoder``: its id, or its folder's name and hash."""
    cfg = recipe.model.llm if part == "llm" else recipe.model.encoder
    return _described(cfg.checkpoint, done_of(run).get("bases", {}).get(part)) if cfg.checkpoint else "none, it is new"


def start_of(first: Recipe, run: Path) -> str | None:
    """Describe what the first known run of a lineage took its weights from; None: from the two checkpoints alone."""
    if first.init_from is None:
        return None
    digest = done_of(run).get("bases", {}).get("init_from")
    if _from_hub(first, run):
        return f"the published model {_described(first.init_from, digest)}"
    kind = "exported model or adapter" if (run / START).is_dir() else "run"
    return f"the {kind} {_folder(first.init_from, digest)}"


def _from_hub(recipe: Recipe, run: Path) -> bool:
    """Tell an id from a run whose folder is gone: only what is not a run leaves its weights in the run's folder."""
    return bool(recipe.init_from and hub_name(recipe.init_from)) and (run / START).is_dir()


def _described(name: str, digest: str | None) -> str:
    return f"`{found}`" if (found := hub_name(name)) is not None else _folder(name, digest)


def _folder(name: str, digest: str | None) -> str:
    known = f", sha256 {digest[:HEX]}…" if digest else ""
    return f"`{Path(name).name}` (a folder{known})"
