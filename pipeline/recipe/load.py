"""Load recipes: YAML files with dotted overrides (``optimizer.peak_lr=3e-5``), typed and checked by OmegaConf.

A recipe file may begin with ``extends: other.yaml`` (a path relative to itself); its own values win. An unknown key is
an error that names the nearest known one. A path may begin with ``~``. Recipes of the project are also found by name.
"""

from __future__ import annotations

import dataclasses
import difflib
import re
from collections.abc import Mapping, MutableMapping, Sequence
from pathlib import Path
from typing import Any, get_args, get_origin, get_type_hints

from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import ConfigKeyError, MissingMandatoryValue, OmegaConfBaseException

from pipeline.recipe.checks import check
from pipeline.recipe.home import expand_home, home_expanded
from pipeline.recipe.schema import ModeShares, Recipe
from pipeline.recipe.shipped import RECIPES, find_recipe, like_recipe
from pipeline.stages import Checkpointing, stage_number
from shards.errors import ConfigError


def load_recipe(path: str | Path, overrides: Sequence[str] = ()) -> Recipe:
    """Read a recipe file, apply ``a.b=c`` overrides, check it.

    Raises:
        ConfigError: the file is missing, a key is unknown, a value has the wrong type or contradicts another.
    """
    merged = OmegaConf.structured(Recipe)
    for layer in [*_layers(find_recipe(path)), *(_override(text) for text in overrides)]:
        merged = _merge(merged, *layer)
    try:
        recipe = OmegaConf.to_object(merged)
    except MissingMandatoryValue as e:
        raise ConfigError(f"{path}: {e.full_key} has no value; set it in the recipe or as an override") from e
    except OmegaConfBaseException as e:  # ${…} of an unknown key
        raise ConfigError(f"{path}: {e.full_key}: {str(e.msg or e).splitlines()[0]}") from e
    assert isinstance(recipe, Recipe)
    expand_home(recipe, str(path))
    check(recipe, str(path))
    return recipe


def load_recipes(
    path: str | Path, stages: str | None = None, overrides: Sequence[str] = (), init_from: str | None = None
) -> list[Recipe]:
    """Read one recipe, or with ``stages`` such as ``2``, ``1-4`` or ``R1-R3`` the files ``stageN.yaml`` of a folder.

    Args:
        init_from: run whose weights the first one takes; any stage will do, with or without a ``done`` marker.

    Raises:
        ConfigError: one is missing or wrong, or two share an output.
    """
    files = [Path(path)]
    if stages is not None:
        ends = [stage_number(end) for end in stages.split("-", 1)]
        if ends[0] > ends[-1]:
            raise ConfigError(f"stages {stages!r}: write one, such as 2, or a range, such as 1-4 or R1-R3")
        found = find_recipe(path)
        folder = found.parent if found.is_file() or found.suffix == ".yaml" else found
        files = [folder / f"stage{n}.yaml" for n in range(ends[0], ends[-1] + 1)]
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
    _normalise(loaded)
    old, new = _flat(loaded), _flat(dataclasses.asdict(recipe))
    return {k: (old.get(k), new.get(k)) for k in sorted(old.keys() | new.keys()) if old.get(k) != new.get(k)}


def _flat(node: Any, prefix: str = "") -> dict[str, Any]:
    if not isinstance(node, dict):
        return {prefix.rstrip("."): node}
    return {k: v for name, child in node.items() for k, v in _flat(child, f"{prefix}{name}.").items()}


def _layers(path: Path, above: tuple[Path, ...] = ()) -> list[tuple[str, DictConfig]]:
    """Read the files that make up a recipe, base first; ``above``: files that extend this one."""
    by = f", which {above[-1]} extends" if above else ""
    if path.is_dir():
        raise ConfigError(f"{path}{by} is a folder: name a file in it, or its stages (--stages 1-4)")
    if path.resolve() in [p.resolve() for p in above]:
        raise ConfigError(f"{above[-1]}: extends {path}, which extends this file itself; remove one extends")
    try:
        loaded = OmegaConf.load(path)
    except FileNotFoundError as e:
        raise ConfigError(f"no recipe at {path}{by}{like_recipe(path)}") from e
    except Exception as e:
        raise ConfigError(f"{path} is not readable YAML: {' '.join(str(e).split())}") from e
    if not isinstance(loaded, DictConfig):
        raise ConfigError(f"{path} holds no mapping of settings")
    settings = OmegaConf.to_container(loaded)
    base = settings.pop("extends", None) if isinstance(settings, dict) else None
    if base is None:
        return [(str(path), DictConfig(settings))]
    if not isinstance(base, str) or not base or "${" in base:
        raise ConfigError(f"{path}: extends is {base!r}, must be the path of one recipe file, without ${{…}}")
    base = home_expanded(base, f"{path}: extends")
    beside = path.parent / base
    shipped = find_recipe(base)
    below = _layers(shipped if not beside.exists() and shipped.is_relative_to(RECIPES) else beside, (*above, path))
    return [*below, (str(path), DictConfig(settings))]


def _override(text: str) -> tuple[str, DictConfig]:
    if "=" not in text:
        raise ConfigError(f"override {text!r} is not of the form section.key=value")
    try:
        return f"override {text!r}", OmegaConf.from_dotlist([text])
    except Exception as e:  # from its YAML parser, or from its own grammar
        hint = "; put an override with spaces or brackets in quotes" if "[" in text or "{" in text else ""
        raise ConfigError(f"override {text!r}: {' '.join(str(e).split())}{hint}") from e


def _merge(base: DictConfig, where: str, layer: DictConfig) -> DictConfig:
    try:
        _normalise(layer)
        merged = OmegaConf.merge(base, _whole_lists(base, layer))
    except ConfigError as e:
        raise ConfigError(f"{where}: {e}") from e
    except ConfigKeyError as e:
        key = _whole_key(re.sub(r"\[(\d+)\]", r".\1", str(e.full_key)), layer)
        entry = re.search(r"\.(\d+)\.", key)
        known = _known_keys(Recipe, entry=entry[1] if entry else "0")
        near = max(known, key=lambda name: _likeness(key, name))
        hint = f"; did you mean {near}?" if _likeness(key, near) > 0.6 else f"; known keys: {', '.join(known)}"
        raise ConfigError(f"{where}: unknown key {key}{hint}") from e
    except OmegaConfBaseException as e:
        if group := _group_set_to_a_value(base, layer):
            raise ConfigError(f"{where}: {group} is a group of settings; set one of them, {group}.KEY=value") from e
        reason = str(e.msg or e).splitlines()[0]
        raise ConfigError(f"{where}: {e.full_key or 'not a mapping'}: {reason}") from e
    assert isinstance(merged, DictConfig)
    return merged


def _whole_lists(base: Any, layer: Any, where: str = "") -> Any:
    """Return a layer whose ``list.0.key`` are whole lists: the base's, with those entries changed.

    Raises:
        ConfigError: the base has no such entry.
    """
    if isinstance(base, ListConfig) and isinstance(layer, DictConfig) and len(layer):
        entries = OmegaConf.to_container(base)
        assert isinstance(entries, list)
        for key in map(str, layer):
            place = int(key) if key.isdecimal() else -1
            if not 0 <= place < len(entries):
                known = f"entries 0 to {len(entries) - 1}" if entries else "no entry"
                raise ConfigError(f"{where}.{key}: {where} is a list with {known}; write {where}.0.key=value")
            changed = OmegaConf.merge(base[place], _whole_lists(base[place], layer[key], f"{where}.{key}"))
            entries[place] = OmegaConf.to_container(changed)
        return ListConfig(entries)
    if isinstance(base, DictConfig) and isinstance(layer, DictConfig):
        made = DictConfig({})
        for key in map(str, layer):
            below = None if OmegaConf.is_missing(base, key) or key not in base else base._get_node(key)
            value = layer._get_node(key)
            made._set_item_impl(key, _whole_lists(below, value, f"{where}.{key}".strip(".")))
        return made
    return layer


def _group_set_to_a_value(base: DictConfig, layer: DictConfig) -> str:
    """Return the first group of settings that a layer sets to something that is no mapping; empty: none."""
    for key, value in _flat(OmegaConf.to_container(layer)).items():
        node = OmegaConf.select(base, key, throw_on_missing=False, throw_on_resolution_failure=False)
        if isinstance(node, DictConfig) and not isinstance(value, Mapping):
            return key
    return ""


def _whole_key(unknown: str, layer: DictConfig) -> str:
    """Return the first setting of a layer at or below the part of its dotted key that is unknown."""
    return next((k for k in _flat(OmegaConf.to_container(layer)) if f"{k}.".startswith(f"{unknown}.")), unknown)


def _likeness(key: str, known: str) -> float:
    """Return how alike two dotted keys are, 0 to 1; ``peak_lr`` alone is a little less than ``optimizer.peak_lr``."""
    whole = difflib.SequenceMatcher(None, key, known).ratio()
    return max(whole, 0.9 * difflib.SequenceMatcher(None, key, known.rpartition(".")[2]).ratio())


def _normalise(settings: Any) -> None:
    """Write settings that have more than one form as the schema has them. In place."""
    _normalise_mode_shares(settings)
    if isinstance(settings, MutableMapping) and re.fullmatch(r"[Rr]\d+", str(settings.get("stage", ""))):
        settings["stage"] = stage_number(settings["stage"])
    model = settings.get("model") if isinstance(settings, Mapping) else None
    if isinstance(model, MutableMapping) and isinstance(model.get("activation_checkpointing"), bool):
        model["activation_checkpointing"] = Checkpointing.of(model["activation_checkpointing"]).plain()


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


def _known_keys(cls: type, prefix: str = "", *, entry: str | None = None) -> list[str]:
    """Return all dotted keys of a config class; with ``entry`` also those of groups in lists, at this place."""
    keys = []
    types = get_type_hints(cls)
    for f in dataclasses.fields(cls):
        groups = [t for t in get_args(types[f.name]) if isinstance(t, type) and dataclasses.is_dataclass(t)]
        if dataclasses.is_dataclass(types[f.name]):
            keys += _known_keys(types[f.name], f"{prefix}{f.name}.", entry=entry)
            continue
        keys.append(prefix + f.name)
        if entry and groups and get_origin(types[f.name]) is list:
            keys += _known_keys(groups[0], f"{prefix}{f.name}.{entry}.", entry=entry)
    return keys
