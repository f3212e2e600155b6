"""Extension points: one file inside the project, or an entry point of any installed package.

A plug-in of a group is a module ``PACKAGE/NAME.py`` of this project, or an object that another distribution declares
under ``[project.entry-points."speakerlm.GROUP"]``. Names compare with ``-`` and ``_`` alike. A module of the project
wins over an entry point of the same name.
"""

from __future__ import annotations

import importlib
import pkgutil
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from shards.errors import ConfigError

PREFIX = "speakerlm."


def plugin_names(group: str, package: str | None = None) -> list[str]:
    """List the names of a group as users write them, with ``-``.

    Args:
        group: such as ``"corpora"``; the entry points are those of ``speakerlm.corpora``.
        package: dotted name of the package whose modules belong to the group.
    """
    return sorted({*_modules(package), *_entries(group)})


def load_plugin(group: str, name: str, package: str | None = None) -> Any:
    """Import a plug-in: the module of that name in ``package``, or the object of an entry point.

    Raises:
        ConfigError: no plug-in has this name, or its package cannot be imported.
    """
    wanted = name.replace("_", "-")
    if wanted in _modules(package):
        return importlib.import_module(f"{package}.{wanted.replace('-', '_')}")
    entries = _entries(group)
    if wanted not in entries:
        known = ", ".join(plugin_names(group, package))
        raise ConfigError(
            f"{group}: {name!r} is unknown; known: {known}. A package adds one by an entry point {PREFIX}{group}"
        )
    entry = entries[wanted]
    try:
        return entry.load()
    except (ImportError, AttributeError) as e:
        raise ConfigError(f"entry point {entry.name} = {entry.value!r} of {PREFIX}{group} cannot be loaded: {e}") from e


def _modules(package: str | None) -> set[str]:
    if package is None:
        return set()
    path = importlib.import_module(package).__path__
    return {m.name.replace("_", "-") for m in pkgutil.iter_modules(path)}


def _entries(group: str) -> dict[str, EntryPoint]:
    return {entry.name.replace("_", "-"): entry for entry in entry_points(group=PREFIX + group)}
