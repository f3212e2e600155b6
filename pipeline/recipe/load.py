"""Load recipes: YAML files with dotted overrides (``optimizer.peak_lr=3e-5``), typed and checked by OmegaConf.

A recipe file may begin with ``extends: other.yaml`` (a path relative to itself); its own values win. An unknown key is
an error that names the nearest known one.
"""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Mapping, MutableMapping, Sequence
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import ConfigKeyError, MissingMandatoryValue, OmegaConfBaseException

from pipeline.recipe.checks import check
from pipeline.recipe.schema import ModeShares, Recipe
from shards.errors import ConfigError


def load_recipe(path: str | Path, overrides: Sequence[str] = ()) -> Recipe:
    """Read a recipe file, apply ``a.b=c`` overrides, check it.

    Raises:
        ConfigError: the file is missing, a key is unknown, a value has the wrong type or contradicts another.
    """
    merged = OmegaConf.structured(Recipe)
    for layer in [*_layers(Path(path)), *(_override(text) for text in overrides)]:
        merged = _merge(merged, *layer)
    try:
        recipe = OmegaConf.to_object(merged)
    except MissingMandatoryValue as e:
        raise ConfigError(f"{path}: {e.full_key} has no value; set it in the recipe or as an override") from e
    except OmegaConfBaseException as e:  # ${…} of an unknown key
        raise ConfigError(f"{path}: {e.full_key}: {str(e.msg or e).splitlines()[0]}") from e
    assert isinstance(recipe, Recipe)
    check(recipe, str(path))
    return recipe


def load_recipes(
    path: str | Path, stages: str | None = None, overrides: Sequence[str] = (), init_from: str | None = None
) -> list[Recipe]:
    """Read one recipe, or with ``stages`` such as ``2`` or ``1-4`` the files ``stageN.yaml`` of a folder in this order.

    Args:
        init_from: run whose weights the first one takes; any stage will do, with or without a ``done`` marker.

    Raises:
        ConfigError: one is missing or wrong, or two share an output.
    """
    files = [Path(path)]
    if stages is not None:
        first, _, last = stages.partition("-")
        if not (first.isdecimal() and (last or first).isdecimal() and int(first) <= int(last or first)):
            raise ConfigError(f"stages {stages!r}: write one, such as 2, or a range, such as 1-4")
        folder = Path(path) if Path(path).is_dir() else Path(path).parent
        files = [folder / f"stage{n}.yaml" for n in range(int(first), int(last or first) + 1)]
    start = [f"init_from={init_from}", "init_from_any=true"] if init_from else []
    recipes = [load_recipe(file, [*overrides, *(start if i == 0 else [])]) for i, file in enumerate(files)]
    if len({r.output for r in recipes}) < len(recipes):
        raise ConfigError(f"stages {stages} of {path} share an output; write ${{stage}} into it")
    return recipes


def save_recipe(recipe: Recipe, path: Path) -> None:
    """Write the resolved recipe as YAML that :func:`load_recipe` reads back to an equal one."""
    path.write_text(dump_recipe(recipe), encoding="utf-8")


def dump_recipe(recipe: Recipe) -> str:
    """Return the resolved recipe as YAML text."""
    return OmegaConf.to_yaml(OmegaConf.structured(recipe))


def changes(old_yaml: str, recipe: Recipe) -> dict[str, tuple[Any, Any]]:
    """Return dotted key → (old, new value) of the differences from a dumped recipe; None for a key that is missing.

    Raises:
        ConfigError: the old text is not a recipe.
    """
    loaded = OmegaConf.to_container(OmegaConf.create(old_yaml))
    if not isinstance(loaded, dict):
        raise ConfigError("the saved recipe holds no mapping of settings")
    _normalise_mode_shares(loaded)
    old, new = _flat(loaded), _flat(dataclasses.asdict(recipe))
    return {k: (old.get(k), new.get(k)) for k in sorted(old.keys() | new.keys()) if old.get(k) != new.get(k)}


def _flat(node: Any, prefix: str = "") -> dict[str, Any]:
    if not isinstance(node, dict):
        return {prefix.rstrip("."): node}
    return {k: v for name, child in node.items() for k, v in _flat(child, f"{prefix}{name}.").items()}


def _layers(path: Path) -> list[tuple[str, DictConfig]]:
    """Read the files that make up a recipe, base first."""
    if path.is_dir():
        raise ConfigError(f"{path} is a folder: name a file in it, or its stages (--stages 1-4)")
    try:
        loaded = OmegaConf.load(path)
    except FileNotFoundError as e:
        raise ConfigError(f"no recipe at {path}") from e
    except Exception as e:
        raise ConfigError(f"{path} is not readable YAML: {' '.join(str(e).split())}") from e
    if not isinstance(loaded, DictConfig):
        raise ConfigError(f"{path} holds no mapping of settings")
    base = loaded.pop("extends", None)
    return [*(_layers(path.parent / base) if base else []), (str(path), loaded)]


def _override(text: str) -> tuple[str, DictConfig]:
    if "=" not in text:
        raise ConfigError(f"override {text!r} is not of the form section.key=value")
    try:
        return f"override {text!r}", OmegaConf.from_dotlist([text])
    except Exception as e:  # from its YAML parser, or from its own grammar
        raise ConfigError(f"override {text!r}: {' '.join(str(e).split())}") from e


def _merge(base: DictConfig, where: str, layer: DictConfig) -> DictConfig:
    try:
        _normalise_mode_shares(layer)
        merged = OmegaConf.merge(base, layer)
    except ConfigError as e:
        raise ConfigError(f"{where}: {e}") from e
    except ConfigKeyError as e:
        known = _known_keys(Recipe)
        near = difflib.get_close_matches(str(e.full_key), known, n=1, cutoff=0.4)
        hint = f"; did you mean {near[0]}?" if near else f"; known keys: {', '.join(known)}"
        raise ConfigError(f"{where}: unknown key {e.full_key}{hint}") from e
    except OmegaConfBaseException as e:
        reason = str(e.msg or e).splitlines()[0]
        raise ConfigError(f"{where}: {e.full_key or 'not a mapping'}: {reason}") from e
    assert isinstance(merged, DictConfig)
    return merged


def _normalise_mode_shares(settings: Any) -> None:
    """Write ``data.registration.mode_shares`` as the schema has it. In place.

    Earlier recipes have a list of three numbers; and an unquoted ``no`` is a false truth value in YAML.

    Raises:
        ConfigError: the list has another length.
    """
    node = settings
    for name in ("data", "registration"):
        node = node.get(name) if isinstance(node, Mapping) else None
    if not isinstance(node, MutableMapping):
        return
    shares = node.get("mode_shares")
    if isinstance(shares, list | ListConfig):
        names = [f.name for f in dataclasses.fields(ModeShares)]
        if len(shares) != len(names):
            raise ConfigError(
                f"data.registration.mode_shares is {list(shares)}; write {{match: …, no: …, over: …}}, or a list of "
                "three numbers (Match, No, Over)"
            )
        node["mode_shares"] = dict(zip(names, shares, strict=True))
    elif isinstance(shares, Mapping):
        node["mode_shares"] = {"no" if key is False else key: value for key, value in shares.items()}


def _known_keys(cls: type, prefix: str = "") -> list[str]:
    """Return all dotted keys of a config class."""
    keys = []
    for f in dataclasses.fields(cls):
        default = f.default_factory() if f.default_factory is not dataclasses.MISSING else f.default
        if dataclasses.is_dataclass(default):
            keys += _known_keys(type(default), f"{prefix}{f.name}.")
        else:
            keys.append(prefix + f.name)
    return keys
