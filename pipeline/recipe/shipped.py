"""Recipes and DeepSpeed files that come with the project: from a checkout, or from inside an installed package.

Both have the same layout below :data:`CHECKOUT`: ``launch/recipes`` and ``ds_configs``.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parents[2]
RECIPES = CHECKOUT / "launch" / "recipes"
FOR_EDITORS = "# yaml-language-server:"  # the line that names the JSON Schema


def find_file(name: str) -> Path:
    """Resolve a path of a recipe: as given, or relative to the checkout."""
    path = Path(name)
    return path if path.is_absolute() or path.exists() else CHECKOUT / path


def find_recipe(name: str | Path) -> Path:
    """Resolve a recipe or a folder of recipes: a path as given, else one of the project's, such as ``tiny/stage1``.

    Returns ``name`` unchanged if there is no such file or folder.
    """
    path = Path(name)
    if path.is_absolute() or path.exists():
        return path
    named = RECIPES / f"{path}.yaml"
    return next((p for p in (CHECKOUT / path, RECIPES / path, named) if p.exists()), path)


def shipped_recipes() -> Iterator[tuple[str, str]]:
    """Yield name, such as ``tiny/stage1``, and the first sentence of each recipe."""
    for path in sorted(RECIPES.glob("*/*.yaml")):
        if not path.name.startswith("_"):
            yield str(path.relative_to(RECIPES).with_suffix("")), _first_sentence(path)


def like_recipe(name: str | Path) -> str:
    """Return a hint for a recipe that does not exist: the most similar name, and how to see all."""
    if "=" in str(name):
        return "; name the recipe first, then overrides: speakerlm-train tiny/stage1 root=mine"
    names = [known for known, _ in shipped_recipes()]
    wanted = Path(name).with_suffix("")
    near = difflib.get_close_matches("/".join(wanted.parts[-2:]), names, n=1)
    return f"; did you mean {near[0]}?" if near else "; speakerlm-train --list shows those of the project"


def _first_sentence(path: Path) -> str:
    comment = []
    for line in path.read_text(encoding="utf-8").splitlines():
        if not line.startswith("#"):
            break
        if not line.startswith(FOR_EDITORS):
            comment.append(line.lstrip("# "))
    return re.split(r"(?<=[^.]\.)\s", " ".join(comment))[0]
